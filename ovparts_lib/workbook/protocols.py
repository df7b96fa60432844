"""One run's stored counts under every protocol, as a notebook shows them."""

from collections.abc import Iterator

import pandas as pd

from ovparts_lib import inspection
from ovparts_lib.evaluation.bootstrap import bootstrap
from ovparts_lib.evaluation.protocols import PROTOCOLS, score_all
from ovparts_lib.evaluation.segmentation_rates import object_rates, part_rates
from ovparts_lib.evaluation.sg_iou import load_fathers
from ovparts_lib.evaluation.stored import Evaluation
from ovparts_lib.evaluation.tables import protocol_comparison, protocol_notes
from ovparts_lib.inspection import Panel
from ovparts_lib.runs import resolve_path
from ovparts_lib.vocabularies import PartVocabulary

HEADLINE = ("seen", "unseen", "harmonic", "mIoU")
SG_FIGURES = ("mIoU", "fwIoU", "recall", "pixel_accuracy")


def load_evaluation(folder: str, stage: str) -> Evaluation:
    """The counts that a run has stored.

    Args:
        folder: of the run.
        stage: ``before`` or ``after`` training, or ``checkpoint``.

    Raises:
        MatrixFileError: the run has no such evaluation, or its file is damaged.
    """
    return Evaluation.load(resolve_path(folder) / "evaluation" / stage)


def describe_protocols() -> Panel:
    """Every protocol with its version, the modes it reads and its rule in words."""
    rows = [(name, each.version, ", ".join(each.modes), each.description) for name, each in PROTOCOLS.items()]
    table = pd.DataFrame(rows, columns=["protocol", "version", "modes", "rule"])
    return Panel("rules", table=table, title="The protocols")


def under_every_protocol(evaluation: Evaluation) -> Iterator[Panel]:
    """The evaluation under every protocol that can read it: all figures as a table, the headline as a chart per mode.

    A figure that was not computed (boundaries, unless asked for) has no row.
    """
    long = protocol_comparison(evaluation).dropna(subset="value")
    headline = long[long["figure"].isin(HEADLINE)]
    keys = ["mode", "protocol", "version"]
    wide = headline.pivot_table(index=keys, columns="figure", values="value", dropna=False, sort=False)
    table = wide.dropna(how="all").reset_index().reindex(columns=[*keys, *HEADLINE])
    yield Panel("headline", table=table, title="One set of predictions under every protocol")
    caption = "The same stored counts, read by each protocol: what differs between bars is the protocol alone."
    for mode, rows in table.groupby("mode", sort=False):
        title = f"One set of predictions under every protocol, {mode.replace('_', '-')}"
        yield inspection.run_bars(rows.assign(label=rows["protocol"]), f"protocols_{mode}", title, caption)
    yield Panel("protocols", table=long, title="All figures under every protocol")


def semantics_guided(evaluation: Evaluation) -> Iterator[Panel]:
    """SG-IoU beside the vanilla metric, and which classes gain, for class lists with a table of fathers."""
    names, fathers = evaluation.vocabulary.classes, load_fathers(evaluation.vocabulary.name)
    if not fathers:
        caption = f"it is the vanilla IoU for {evaluation.vocabulary.name}: no class is listed as a kind of another"
        yield Panel("sg_iou", title="SG-IoU", caption=caption)
        return
    vanilla, guided = score_all(evaluation, ("ovseg", "sg_iou"))
    rows = [{"protocol": one.protocol} | {key: one.summary[key] for key in SG_FIGURES} for one in (vanilla, guided)]
    yield Panel("sg_iou", table=pd.DataFrame(rows), title="SG-IoU beside the vanilla metric, percent")
    columns = {"class": names, "IoU": vanilla.classes["IoU"], "SG_IoU": guided.classes["IoU"]}
    gains = pd.DataFrame(columns).assign(gain=lambda table: table["SG_IoU"] - table["IoU"])
    gains["fathers"] = [", ".join(names[father] for child, father in fathers if child == i) for i in range(len(names))]
    gains = gains[gains["gain"] > 0].sort_values("gain", ascending=False)
    title = "Classes that gain from SG-IoU, percentage points"
    yield Panel("sg_iou_classes", table=gains, title=title, caption="none does")


def why_they_differ(evaluation: Evaluation) -> Panel:
    """Each rule in which a protocol departs from the recommended one; ``options`` says how scoring was done here."""
    return Panel("differences", table=protocol_notes(evaluation), title="Why the figures differ")


def intervals_by_protocol(evaluation: Evaluation, samples: int, seed: int) -> Panel:
    """Confidence intervals over images of the headline figures, under every protocol.

    Args:
        evaluation: the counts.
        samples: sets of images drawn.
        seed: of the draw.
    """
    results = score_all(evaluation)
    tables = [bootstrap(evaluation, one.protocol, one.mode, samples=samples, seed=seed) for one in results]
    table = pd.concat(tables, ignore_index=True)
    table = table[table["figure"].isin(HEADLINE)][["mode", "protocol", "figure", "value", "low", "high"]]
    return Panel("intervals", table=table, title="95 % confidence intervals over images, by protocol")


def segmentation_rates(evaluation: Evaluation) -> Iterator[Panel]:
    """Over- and under-segmentation of each object in pred-all (given the object, nothing goes astray), and of parts."""
    if not isinstance(evaluation.vocabulary, PartVocabulary):
        yield Panel("object_rates", title="Over- and under-segmentation", caption="of parts and their objects only")
        return
    of_parts = [part_rates(evaluation, mode) for mode in evaluation.modes]
    for kind, tables in (("object", [object_rates(evaluation, "pred_all")]), ("part", of_parts)):
        table = pd.concat(tables, ignore_index=True)
        table = table[table["images"] > 0].drop(columns=["vocabulary_hash", "options", "records", "scored_images"])
        yield Panel(f"{kind}_rates", table=table, title=f"Over- and under-segmentation of {kind}s")
