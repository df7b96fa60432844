"""What was found in an official archive when the files of a dataset were made from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ovparts_lib.data.verification_report import Problem
from ovparts_lib.vocabularies import Vocabulary

LISTED = 10  # files left out that are printed


@dataclass
class PrepareReport:
    """What was found in an archive.

    Attributes:
        vocabulary: the classes of the dataset.
        target: the dataset's folder.
        counts: for each split, how many of what.
        found: labelled pixels of each class over all splits, int64, by what the classes are; of objects, instances.
        problems: files that were left out, each with what is wrong.
    """

    vocabulary: Vocabulary
    target: Path
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    found: dict[str, np.ndarray] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing had to be left out."""
        return not self.problems

    def missing(self, what: str) -> list[str]:
        """The classes of ``found[what]`` of which there is nothing."""
        return [name for name, count in zip(getattr(self.vocabulary, what), self.found[what], strict=True) if not count]

    def __str__(self) -> str:
        lines = [f"{self.vocabulary.title} in {self.target}"]
        for split, counts in self.counts.items():
            lines.append(f"  {split}: " + ", ".join(f"{number:,} {what}" for what, number in counts.items()))
        for what, totals in self.found.items():
            missing = self.missing(what)
            named = f"; not: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}" if missing else ""
            lines.append(f"  {len(totals) - len(missing)} of {len(totals)} {what} found{named}")
        lines += [f"  left out: {problem}" for problem in self.problems[:LISTED]]
        if len(self.problems) > LISTED:
            lines.append(f"  … and {len(self.problems) - LISTED} more")
        return "\n".join(lines)
