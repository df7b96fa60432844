"""The shipped table of published figures is consistent with itself."""

import numpy as np

from ovparts_lib.evaluation.published import published_results
from ovparts_lib.vocabularies import DATASET_VOCABULARIES


def test_known_rows_of_the_ov_parts_readme():
    rows = published_results("pascal_part_116", "zero_shot")
    clipseg = rows[(rows.system == "CLIPSeg") & (rows.finetuning == "VA+L+F+D") & (rows.protocol == "ov_parts")]
    figures = clipseg.set_index("mode")[["seen", "unseen", "harmonic"]]
    assert figures.loc["oracle_obj"].tolist() == [48.68, 27.37, 35.04]
    assert figures.loc["pred_all"].tolist() == [44.57, 27.79, 34.24]


def test_harmonic_means_agree_with_their_parts():
    rows = published_results().dropna(subset=["seen", "unseen", "harmonic"])
    harmonic = 2 * rows.seen * rows.unseen / (rows.seen + rows.unseen)
    # Inputs are rounded to two digits (one in a few transcriptions), so the mean may be off by that much.
    assert len(rows) > 20
    assert np.abs(harmonic - rows.harmonic).max() < 0.1


def test_every_row_names_its_dataset_mode_evidence_and_source():
    rows = published_results()
    assert set(rows.dataset) <= set(DATASET_VOCABULARIES)
    assert set(rows["mode"]) == {"oracle_obj", "pred_all"}
    assert set(rows.evidence) <= {"primary", "secondary", "issue", "derived"}
    assert rows.source.str.len().gt(10).all()
