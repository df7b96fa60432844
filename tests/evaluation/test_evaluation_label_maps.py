import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovparts_lib.evaluation import label_maps, oracle_map, pred_all_map, upsampled_argmax
from ovparts_lib.models.scores import PartScores
from ovparts_lib.vocabularies import Vocabulary, load_vocabulary

TRAPS = Vocabulary(  # "ox" is a substring of "fox", "door" of "cabinet's door": only ids may decide
    "traps",
    ("fox's head", "fox's tail", "ox's head", "ox's horn", "door's knob", "cabinet's door"),
    ("fox", "ox", "door", "cabinet", "rock"),
)


def scores_of(vocabulary, seed=0, grid=(11, 13), size=(25, 31), scale=3.0, part_ids=None, background=True):
    draw = torch.Generator().manual_seed(seed)
    part_ids = tuple(range(len(vocabulary.parts))) if part_ids is None else tuple(part_ids)
    logits = scale * torch.randn(len(vocabulary.parts) + 1, *grid, generator=draw)
    return PartScores(logits[list(part_ids)], part_ids, logits[-1] if background else None, size)


def released_maps(scores, vocabulary, object_ids):
    """The released rule on dense maps, in float64: resize all logits, sigmoid, zero the other objects, arg-max."""
    stack = torch.cat([scores.logits, scores.background[None]]).double()
    dense = torch.sigmoid(F.interpolate(stack[None], scores.image_size, mode="bilinear", align_corners=False)[0])
    oracle = dense[:-1].clone()
    for part, owner in enumerate(vocabulary.part_to_object):
        if owner not in object_ids:
            oracle[part] = 0.0
    return oracle.argmax(0), dense.argmax(0)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    grid=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    chunk=st.sampled_from([1, 700, 3000, 1 << 20]),
)
def test_equal_to_the_released_rule_on_dense_maps(seed, grid, size, chunk):
    scores = scores_of(TRAPS, seed, grid, size)
    before = dict(label_maps._CHUNK_VALUES)
    label_maps._CHUNK_VALUES["cpu"] = chunk
    try:
        everywhere = pred_all_map(scores)
        for object_id in range(4):
            oracle, dense = released_maps(scores, TRAPS, {object_id})
            assert torch.equal(oracle_map(scores, object_id, TRAPS), oracle)
            assert torch.equal(everywhere, dense)
    finally:
        label_maps._CHUNK_VALUES.update(before)


@pytest.mark.parametrize("name", ["pascal_part_116", "partimagenet_ood"])
def test_equal_to_the_released_rule_on_whole_datasets_vocabularies(name):
    vocabulary = load_vocabulary(name)
    scores = scores_of(vocabulary, 5, (16, 16), (33, 47))
    object_id = vocabulary.part_to_object[-1]
    oracle, dense = released_maps(scores, vocabulary, {object_id})
    assert torch.equal(oracle_map(scores, object_id, vocabulary), oracle)
    assert torch.equal(pred_all_map(scores), dense)


def test_interpolation_is_the_closed_formula():
    """One row from two columns: weights of pixel centres, edges repeated (align_corners=False)."""
    logits = torch.tensor([[[0.0, 8.0]], [[3.0, 3.0]]])
    # centres of 4 target pixels in source coordinates: -.25, .25, .75, 1.25 -> first channel 0, 2, 6, 8
    assert upsampled_argmax(logits, (1, 4)).tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_ties_go_to_the_first_class_and_background_comes_last(chunk, monkeypatch):
    monkeypatch.setitem(label_maps._CHUNK_VALUES, "cpu", chunk)
    equal = PartScores(torch.zeros(6, 4, 4), tuple(range(6)), torch.zeros(4, 4), (8, 8))
    assert pred_all_map(equal).unique().tolist() == [0]
    assert oracle_map(equal, TRAPS.object_id("ox"), TRAPS).unique().tolist() == [2]
    reversed_order = PartScores(torch.zeros(6, 4, 4), (5, 4, 3, 2, 1, 0), None, (8, 8))
    assert oracle_map(reversed_order, TRAPS.object_id("ox"), TRAPS).unique().tolist() == [2]


def test_the_object_is_found_by_id_never_by_substring():
    scores = scores_of(TRAPS)
    assert set(oracle_map(scores, TRAPS.object_id("ox"), TRAPS).unique().tolist()) <= {2, 3}
    assert oracle_map(scores, TRAPS.object_id("door"), TRAPS).unique().tolist() == [4]


def test_scores_of_the_objects_parts_alone_give_the_same_map():
    everything = scores_of(TRAPS, 3)
    some = scores_of(TRAPS, 3, part_ids=(3, 0, 2), background=False)
    ox = TRAPS.object_id("ox")
    assert torch.equal(oracle_map(some, ox, TRAPS), oracle_map(everything, ox, TRAPS))


def test_background_wins_where_it_is_largest():
    logits = torch.zeros(2, 1, 2)
    scores = PartScores(logits, (0, 1), torch.tensor([[-5.0, 5.0]]), (1, 2))
    assert pred_all_map(scores).tolist() == [[0, 2]]
    some = PartScores(logits, (3, 4), torch.tensor([[-5.0, 5.0]]), (1, 2))
    assert pred_all_map(some, nothing=116).tolist() == [[3, 116]]


def test_scores_that_do_not_suffice_are_refused():
    some = scores_of(TRAPS, part_ids=(0, 2))
    with pytest.raises(ValueError, match="the scores lack ox's horn"):
        oracle_map(some, TRAPS.object_id("ox"), TRAPS)
    with pytest.raises(ValueError, match="'traps' has no parts"):
        oracle_map(some, TRAPS.object_id("rock"), TRAPS)
    with pytest.raises(ValueError, match="say which id stands for nothing"):
        pred_all_map(some)
    with pytest.raises(ValueError, match="2 cannot stand for nothing"):
        pred_all_map(some, nothing=2)


def test_half_precision_logits_are_interpolated_in_float32():
    scores = scores_of(TRAPS, 1)
    half = PartScores(scores.logits.bfloat16(), scores.part_ids, scores.background.bfloat16(), scores.image_size)
    same = PartScores(half.logits.float(), scores.part_ids, half.background.float(), scores.image_size)
    assert torch.equal(pred_all_map(half), pred_all_map(same))


def test_memory_stays_far_below_a_dense_map():
    """116 classes on a large photograph: the dense float map would hold 1.5 GB."""
    tracked = []
    original = F.interpolate

    def watch(chunk, *args, **kwargs):
        full = original(chunk, *args, **kwargs)
        tracked.append(full.nelement() * full.element_size())
        return full

    vocabulary = load_vocabulary("pascal_part_116")
    scores = scores_of(vocabulary, 0, (8, 8), (1536, 2048))
    label_maps.F.interpolate = watch
    try:
        label_map = pred_all_map(scores)
    finally:
        label_maps.F.interpolate = original
    assert label_map.shape == (1536, 2048)
    assert max(tracked) <= 16 * 2**20
    assert np.sum(tracked) == 117 * 1536 * 2048 * 4
