"""What an integrity check found, as a value, a table and a page."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import pandas as pd

from ovparts_lib.data.files import DatasetError, Record

LISTED = 50  # problems written out on the page; the table has all of them


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with one file or folder.

    Attributes:
        file: its path.
        what: what is wrong.
        what_to_do: one sentence of advice.
    """

    file: str
    what: str
    what_to_do: str

    @classmethod
    def of(cls, error: DatasetError) -> Self:
        """The problem that an exception of a reader describes."""
        return cls(error.file or "", error.what, error.what_to_do)

    def __str__(self) -> str:
        return f"{self.file}: {self.what}" + (f". {self.what_to_do}" if self.what_to_do else "")


def problem_table(problems: Iterable[Problem]) -> pd.DataFrame:
    """One row per problem: ``file``, ``what``, ``what_to_do``."""
    return pd.DataFrame([asdict(problem) for problem in problems], columns=["file", "what", "what_to_do"])


@dataclass
class Folder:
    """What there is of ``train`` or ``val``.

    Attributes:
        records: one per image that has all its files.
        files: every file found, including those of no use.
        unlisted: pictures of which nothing is known because their annotation file is wrong.
        counts: how many files of what.
    """

    records: list[Record]
    files: list[Path]
    unlisted: list[Path] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


@dataclass
class VerificationReport:
    """Outcome of an integrity check.

    Attributes:
        dataset: title of the dataset.
        root: where it lies.
        problems: what makes the data wrong; nothing should be computed before they are gone.
        notes: what a user should know and may leave as it is.
        counts: for each folder (``train``, ``val``), how many of what.
        fingerprint: 16 hexadecimal digits over names and contents of all files in use: equal on every machine that has
            the same data, another after any change. Empty where folders are missing.
    """

    dataset: str
    root: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    fingerprint: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is no problem; notes do not count."""
        return not self.problems

    def blames(self, path: Path) -> bool:
        """Whether one of the problems is this file's or folder's."""
        return any(problem.file == str(path) for problem in self.problems)

    @property
    def verdict(self) -> str:
        """``no problems``, ``1 problem`` or ``2 problems``."""
        return f"{len(self.problems) or 'no'} problem{'' if len(self.problems) == 1 else 's'}"

    def raise_if_wrong(self) -> None:
        """Raise DatasetError with the first problems and their number, if there are any."""
        if self.ok:
            return
        shown = "\n".join(f"  {problem}" for problem in self.problems[:5])
        more = f"\n  … and {len(self.problems) - 5} more" if len(self.problems) > 5 else ""
        raise DatasetError(self.root, f"{self.dataset} has {self.verdict}:\n{shown}{more}")

    def to_markdown(self) -> str:
        """The report as a page of Markdown."""
        lines = [f"# {self.dataset}: {self.verdict}", "", f"`{self.root}`, fingerprint `{self.fingerprint or '–'}`."]
        if self.counts:
            kinds = dict.fromkeys(kind for counts in self.counts.values() for kind in counts)
            rows = [[kind, *(f"{counts.get(kind, 0):,}" for counts in self.counts.values())] for kind in kinds]
            lines += ["", "## Counts", "", *_table(["", *self.counts], rows)]
        if self.problems:
            rows = [[f"`{problem.file}`", problem.what, problem.what_to_do] for problem in self.problems[:LISTED]]
            lines += ["", "## Problems", "", *_table(["file", "what is wrong", "what to do"], rows)]
            if len(self.problems) > LISTED:
                lines += ["", f"… and {len(self.problems) - LISTED} more."]
        if self.notes:
            lines += ["", "## Notes", "", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"


@dataclass
class PrepareReport(VerificationReport):
    """What was found in an official archive when the files of a dataset were made from it; problems were left out.

    Attributes:
        found: labelled pixels of each class over all splits, by what the classes are; of objects, instances.
    """

    found: dict[str, pd.Series] = field(default_factory=dict)

    def note_missing(self) -> None:
        """Say in the notes how many of the classes were found, and which were not."""
        for what, totals in self.found.items():
            missing = totals.index[totals == 0].tolist()
            named = f"; not: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}" if missing else ""
            self.notes.append(f"{len(totals) - len(missing)} of {len(totals)} {what} found{named}")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines]
