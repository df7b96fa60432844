"""The shipped table of published figures is consistent with itself."""

import numpy as np

from ovparts_lib.evaluation.protocols import PROTOCOLS
from ovparts_lib.evaluation.tables import published_metrics, published_object_results, published_results
from ovparts_lib.vocabularies import PART_VOCABULARIES


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
    assert set(rows.dataset) <= set(PART_VOCABULARIES)
    assert set(rows["mode"]) == {"oracle_obj", "pred_all"}
    assert set(rows.evidence) <= {"primary", "secondary", "issue", "derived"}
    assert rows.source.str.len().gt(10).all()


def test_protocols_behind_published_figures_are_ours_and_stand_for_their_mode():
    for rows in (published_results(), published_metrics()):
        named = rows[(rows.protocol != "") & ~((rows.protocol == "ov_parts") & (rows["mode"] == "pred_all"))]
        assert len(named) > 5
        assert all(mode in PROTOCOLS[name].modes for name, mode in zip(named.protocol, named["mode"], strict=True))


def test_other_metrics_keep_their_source():
    rows = published_metrics("pascal_part_116")
    boundary = rows[(rows.metric == "boundary_IoU") & (rows.system == "PartCLIPSeg")]
    assert boundary.seen.tolist() == [36.15]
    assert boundary.protocol.tolist() == ["partclipseg_oracle"]
    winner = rows[rows.system == "challenge entry GXJ-xxxdu"].set_index("setting").overall
    assert winner["zero_shot"] == 44.44
    assert winner["cross_dataset_any_to_pascal_part_116"] == 21.52
    assert set(published_metrics().evidence) <= {"primary", "secondary", "issue", "derived"}
    assert published_metrics().source.str.len().gt(10).all()


def test_object_level_figures_of_ovseg_and_scan():
    rows = published_object_results("ade20k_150", "open_vocabulary")
    ovseg = rows[(rows.system == "OVSeg") & (rows.backbone == "Swin-B")]
    assert ovseg.value.tolist() == [29.6]
    assert ovseg.protocol.tolist() == ["ovseg"]
    assert sorted(rows[rows.system == "SCAN"].value) == [30.8, 33.5]
    everything = published_object_results()
    assert everything.value.between(0, 100).all()
    assert everything.source.str.len().gt(10).all()
    assert set(everything.evidence) == {"primary", "secondary"}
