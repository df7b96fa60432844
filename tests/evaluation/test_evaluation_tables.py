import dataclasses
import io

import numpy as np
import pandas as pd
import pytest

from ovparts_lib.evaluation.evaluator import evaluate
from ovparts_lib.evaluation.protocols import PROTOCOLS, UnsupportedModeError, score_all
from ovparts_lib.evaluation.tables import ProtocolMismatchError, class_table, merge_tables, summary_table
from ovparts_lib.vocabularies import PartVocabulary
from tests.evaluation.recorded import read_matrix
from tests.evaluation.scripted import VOCABULARY, Labels, Scripted


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(Scripted(), Labels(), device="cpu", progress=False)


def read_back(frame):
    return pd.read_csv(io.StringIO(frame.to_csv(index=False)))


def test_class_table_says_what_each_row_is(evaluation):
    table = class_table(evaluation, "recommended", "pred_all")
    assert list(table.columns[:9]) == [
        "object", "part", "generic", "seen", "IoU", "recall", "precision", "pixels", "images",
    ]  # fmt: skip
    assert list(table["part"]) == list(VOCABULARY.parts)
    dog = table[table["part"] == "dog's tail"].iloc[0]
    assert (dog["object"], dog["generic"], bool(dog["seen"])) == ("dog", "tail", False)
    assert list(table["images"]) == list(evaluation.class_images)
    columns = evaluation.matrices["pred_all"][:, :-1].sum(axis=0)
    assert list(table["pixels"]) == list(columns)
    assert table["IoU"].mean() == pytest.approx(PROTOCOLS["recommended"](evaluation, "pred_all").summary["mIoU"])
    assert set(table["protocol"]) == {"recommended"}
    assert set(table["vocabulary_hash"]) == {VOCABULARY.hash}


def test_summary_states_protocol_modes_counts_and_classes_averaged(evaluation):
    table = summary_table(score_all(evaluation, ["recommended"]))
    assert list(table["mode"]) == ["oracle_obj", "pred_all"]
    row = table.iloc[0]
    assert (row["protocol"], row["version"]) == ("recommended", PROTOCOLS["recommended"].version)
    assert row["vocabulary_hash"] == VOCABULARY.hash
    assert (row["records"], row["images"], row["skipped_records"]) == (evaluation.records, 5, 3)
    assert row["classes_seen"] + row["classes_unseen"] == row["classes"]
    assert row["harmonic"] == pytest.approx(2 / (1 / row["seen"] + 1 / row["unseen"]))


def test_all_protocols_are_read_where_they_are_defined(evaluation):
    found = [(result.protocol, result.mode) for result in score_all(evaluation)]
    oracle, everything = "oracle_obj", "pred_all"
    assert found == [
        ("recommended", oracle), ("recommended", everything), ("recommended_strict", everything), ("ov_parts", oracle),
        ("partclipseg_oracle", oracle), ("partclipseg_pred_all", everything),
        ("partcatseg_oracle", oracle), ("partcatseg_pred_all", everything),
    ]  # fmt: skip


def test_runs_of_one_kind_merge_also_from_csv(evaluation):
    table = summary_table(score_all(evaluation, ["recommended"]))
    merged = merge_tables({"first": table, "second": read_back(table)})
    assert list(merged["run"]) == ["first", "first", "second", "second"]
    assert merged.columns[0] == "run"
    assert list(merged["mIoU"][:2]) == pytest.approx(list(merged["mIoU"][2:]))


def test_protocols_do_not_mix(evaluation):
    with pytest.raises(ProtocolMismatchError, match=r"protocol: 'recommended' in .*'ov_parts' in result 2"):
        summary_table(score_all(evaluation, ["recommended", "ov_parts"]))
    ours, released = (summary_table(score_all(evaluation, [name])) for name in ("recommended", "ov_parts"))
    with pytest.raises(ProtocolMismatchError, match=r"protocol: 'recommended' in a; 'ov_parts' in b.*modes:"):
        merge_tables({"a": ours, "b": released})


def test_versions_vocabularies_and_modes_do_not_mix(evaluation):
    result = PROTOCOLS["recommended"](evaluation, "oracle_obj")
    with pytest.raises(ProtocolMismatchError, match=r"version: '1' in .*; '2' in"):
        summary_table([result, dataclasses.replace(result, version="2")])
    other = PartVocabulary(
        "toy", VOCABULARY.parts, VOCABULARY.objects, unseen_objects=frozenset({"cat"})
    )  # the same words, another split
    with pytest.raises(ProtocolMismatchError, match=f"vocabulary_hash: '{VOCABULARY.hash}' in .*; '{other.hash}' in"):
        summary_table([result, read_matrix(PROTOCOLS["recommended"], np.zeros((8, 8), np.int64), other, "oracle_obj")])
    both, one = summary_table(score_all(evaluation, ["recommended"])), summary_table([result])
    with pytest.raises(ProtocolMismatchError, match="modes: 'oracle_obj, pred_all' in a; 'oracle_obj' in b"):
        merge_tables({"a": both, "b": one})


def test_ways_of_scoring_do_not_mix(evaluation):
    released = evaluate(Scripted(), Labels(), device="cpu", progress=False, oracle_rule="substring")
    tables = {name: summary_table(score_all(one, ["ov_parts"])) for name, one in (("a", evaluation), ("b", released))}
    with pytest.raises(ProtocolMismatchError, match="options: 'default' in a; 'oracle_rule=substring' in b"):
        merge_tables(tables)


def test_tables_without_content_are_refused(evaluation):
    with pytest.raises(ValueError, match="'a' is no summary table: it lacks protocol"):
        merge_tables({"a": pd.DataFrame({"mIoU": [1.0]})})


def test_missing_modes_and_protocols_are_named(evaluation):
    oracle = evaluate(Scripted(), Labels(), device="cpu", progress=False, modes=("oracle_obj",))
    with pytest.raises(UnsupportedModeError, match="the evaluation has no mode 'pred_all'; it has oracle_obj"):
        class_table(oracle, "recommended", "pred_all")
    with pytest.raises(ValueError, match="no protocol called 'voc'"):
        class_table(evaluation, "voc")
