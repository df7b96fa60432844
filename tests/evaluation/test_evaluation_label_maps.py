import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovparts_lib.evaluation import sampling
from ovparts_lib.evaluation.label_maps import oracle_map, pred_all_map
from ovparts_lib.systems.scores import Scores
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary
from tests.evaluation.recorded import read

TRAPS = PartVocabulary(  # "ox" is a substring of "fox", "door" of "cabinet's door": only ids may decide
    "traps",
    ("fox's head", "fox's tail", "ox's head", "ox's horn", "door's knob", "cabinet's door"),
    ("fox", "ox", "door", "cabinet", "rock"),
)


def scores_of(vocabulary, seed=0, grid=(11, 13), size=(25, 31), scale=3.0, class_ids=None, background=True):
    draw = torch.Generator().manual_seed(seed)
    class_ids = tuple(range(len(vocabulary.parts))) if class_ids is None else tuple(class_ids)
    logits = scale * torch.randn(len(vocabulary.parts) + 1, *grid, generator=draw)
    return Scores(logits[list(class_ids)], class_ids, logits[-1] if background else None, size)


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
    before = dict(sampling.BAND_VALUES), dict(sampling.CHUNK_VALUES)
    sampling.BAND_VALUES["cpu"] = sampling.CHUNK_VALUES["cpu"] = chunk
    try:
        everywhere = pred_all_map(scores)
        for object_id in range(4):
            oracle, dense = released_maps(scores, TRAPS, {object_id})
            assert torch.equal(oracle_map(scores, object_id, TRAPS), oracle)
            assert torch.equal(everywhere, dense)
    finally:
        sampling.BAND_VALUES.update(before[0])
        sampling.CHUNK_VALUES.update(before[1])


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
    assert pred_all_map(Scores(logits, (0, 1), None, (1, 4))).tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_ties_go_to_the_first_class_and_background_comes_last(chunk, monkeypatch):
    monkeypatch.setitem(sampling.BAND_VALUES, "cpu", chunk)
    monkeypatch.setitem(sampling.CHUNK_VALUES, "cpu", chunk)
    equal = Scores(torch.zeros(6, 4, 4), tuple(range(6)), torch.zeros(4, 4), (8, 8))
    assert pred_all_map(equal).unique().tolist() == [0]
    assert oracle_map(equal, TRAPS.object_id("ox"), TRAPS).unique().tolist() == [2]
    reversed_order = Scores(torch.zeros(6, 4, 4), (5, 4, 3, 2, 1, 0), None, (8, 8))
    assert oracle_map(reversed_order, TRAPS.object_id("ox"), TRAPS).unique().tolist() == [2]


def test_the_object_is_found_by_id_never_by_substring():
    scores = scores_of(TRAPS)
    assert set(oracle_map(scores, TRAPS.object_id("ox"), TRAPS).unique().tolist()) <= {2, 3}
    assert oracle_map(scores, TRAPS.object_id("door"), TRAPS).unique().tolist() == [4]


def test_scores_of_the_objects_parts_alone_give_the_same_map():
    everything = scores_of(TRAPS, 3)
    some = scores_of(TRAPS, 3, class_ids=(3, 0, 2), background=False)
    ox = TRAPS.object_id("ox")
    assert torch.equal(oracle_map(some, ox, TRAPS), oracle_map(everything, ox, TRAPS))


def test_background_wins_where_it_is_largest():
    logits = torch.zeros(2, 1, 2)
    scores = Scores(logits, (0, 1), torch.tensor([[-5.0, 5.0]]), (1, 2))
    assert pred_all_map(scores).tolist() == [[0, 2]]
    some = Scores(logits, (3, 4), torch.tensor([[-5.0, 5.0]]), (1, 2))
    assert pred_all_map(some, background_id=116).tolist() == [[3, 116]]


def test_scores_that_do_not_suffice_are_refused():
    some = scores_of(TRAPS, class_ids=(0, 2))
    with pytest.raises(ValueError, match="the scores lack ox's horn"):
        oracle_map(some, TRAPS.object_id("ox"), TRAPS)
    with pytest.raises(ValueError, match="'traps' has no parts"):
        oracle_map(some, TRAPS.object_id("rock"), TRAPS)
    with pytest.raises(ValueError, match="say which id stands for the background"):
        pred_all_map(some)


def test_half_precision_logits_are_interpolated_in_float32():
    scores = scores_of(TRAPS, 1)
    half = Scores(scores.logits.bfloat16(), scores.class_ids, scores.background.bfloat16(), scores.image_size)
    same = Scores(half.logits.float(), scores.class_ids, half.background.float(), scores.image_size)
    assert torch.equal(pred_all_map(half), pred_all_map(same))


def test_memory_stays_far_below_a_dense_map(monkeypatch):
    """116 classes on a large photograph: the dense float map would hold 1.5 GB."""
    held = []
    original = sampling.F.embedding_bag

    def watch(corners, table, **options):
        values = original(corners, table, **options)
        held.append(4 * (values.nelement() + table.nelement()))
        return values

    vocabulary = load_vocabulary("pascal_part_116")
    scores = scores_of(vocabulary, 0, (352, 352), (1536, 2048))
    monkeypatch.setattr(sampling.F, "embedding_bag", watch)
    assert pred_all_map(scores).shape == (1536, 2048)
    assert max(held) <= 8 * 2**20


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("probabilities", [False, True])
def test_chosen_pixels_have_the_values_of_the_dense_map(scale, probabilities):
    """Padding included: maps that span more than the image are resized to that, and cropped."""
    draw = torch.Generator().manual_seed(3)
    logits = 5 * torch.randn(9, 17, 23, generator=draw)
    size, covered = (40, 61), (int(40 + 16 * scale), int(61 + 32 * scale))
    maps = logits.sigmoid() if probabilities else logits
    dense = F.interpolate(maps[None], size=covered, mode="bilinear", align_corners=False)[0][:, : size[0], : size[1]]
    pixels = torch.randperm(40 * 61, generator=draw)[:700].sort().values
    found = torch.full((700, 9), torch.nan)
    for start, values in sampling.sampled([logits[:4], logits[4:]], pixels, size, covered, probabilities=probabilities):
        found[start : start + len(values)] = values
    torch.testing.assert_close(found, dense.flatten(1).T[pixels], rtol=1e-5, atol=2e-5)


def test_equal_channels_tie_everywhere_whatever_their_values():
    """Ties must not depend on where a channel stands in a vector register."""
    one = torch.randn(1, 31, 29, generator=torch.Generator().manual_seed(1))
    scores = Scores(one.expand(117, -1, -1), tuple(range(117)), None, (203, 171))
    assert pred_all_map(scores).unique().tolist() == [0]


def objects_of(vocabulary, seed, grid, scale=3.0):
    draw = torch.Generator().manual_seed(seed + 1000)
    ids = tuple(i for i in range(len(vocabulary.objects)) if vocabulary.parts_of(i))
    logits = scale * torch.randn(len(ids) + 1, *grid, generator=draw)
    return Scores(logits[:-1], ids, logits[-1], (25, 31))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), size=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_objects_gate_their_parts_like_the_released_product(seed, size):
    """PartCLIPSeg: probabilities of parts times (their object wins), background times (no object wins), arg-max."""
    scores = scores_of(TRAPS, seed, (7, 5), size)
    scores.objects = objects_of(TRAPS, seed, (4, 6))
    stack = torch.cat([scores.logits, scores.background[None]]).double()
    objects = torch.cat([scores.objects.logits, scores.objects.background[None]]).double()
    dense, gate = (
        torch.sigmoid(F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0])
        for maps in (stack, objects)
    )
    chosen = torch.tensor([*scores.objects.class_ids, -1])[gate.argmax(0)]
    owners = torch.tensor([*TRAPS.part_to_object, -1])
    expected = (dense * (owners[:, None, None] == chosen[None])).argmax(0)
    assert torch.equal(pred_all_map(scores, vocabulary=TRAPS), expected)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    background=st.booleans(),
    chunk=st.sampled_from([1, 700, 1 << 20]),
)
def test_mask_classification_is_the_arg_max_of_its_dense_product(seed, size, background, chunk):
    """Whole numbers and powers of two, so that both orders of resizing and multiplying are exact."""
    draw = torch.Generator().manual_seed(seed)
    grid = tuple(max(1, side // 2) for side in size)
    masks = torch.randint(-8, 9, (5, *grid), generator=draw).float()
    weights = torch.randint(-8, 9, (6, 5), generator=draw).float()
    last = torch.randint(-90, 91, grid, generator=draw).float() if background else None
    covered = tuple(4 * side for side in grid)
    size = tuple(min(pair) for pair in zip(size, covered, strict=True))
    factored = Scores(masks, tuple(range(6)), last, size, covered, class_weights=weights)
    dense = dataclasses.replace(factored, logits=factored.class_maps(), class_weights=None)
    assert torch.equal(factored.class_maps([4, 1]), dense.class_maps([4, 1]))
    before = dict(sampling.CHUNK_VALUES)
    sampling.CHUNK_VALUES["cpu"] = chunk
    try:
        assert torch.equal(pred_all_map(factored), pred_all_map(dense))
        for number in range(4):
            assert torch.equal(oracle_map(factored, number, TRAPS), oracle_map(dense, number, TRAPS))
    finally:
        sampling.CHUNK_VALUES.update(before)


def test_the_product_of_masks_and_classes_never_exists_whole(monkeypatch):
    held = []
    original = torch.cat

    def watch(tensors, **options):
        values = original(tensors, **options)
        held.append(values.nelement())
        return values

    monkeypatch.setattr(torch, "cat", watch)
    scores = Scores(torch.rand(10, 60, 80), tuple(range(847)), None, (240, 320), class_weights=torch.rand(847, 10))
    assert pred_all_map(scores).shape == (240, 320)
    assert 0 < max(held) <= 2 * sampling.CHUNK_VALUES["cpu"]


def test_objects_need_the_vocabulary():
    scores = scores_of(TRAPS)
    scores.objects = objects_of(TRAPS, 0, (4, 6))
    with pytest.raises(ValueError, match="give the vocabulary, which knows its parts"):
        pred_all_map(scores)


@pytest.mark.parametrize("case", ["pascal", "ade", "ade_two"])
def test_maps_of_all_six_systems_equal_the_recorded_ones(case):
    facts, arrays = read(f"golden_rules_{case}")
    vocabulary = load_vocabulary("pascal_part_116" if case == "pascal" else "ade20k_part_234")
    parts, generic = len(vocabulary.parts), len(vocabulary.generic_parts)
    logits, others = (torch.from_numpy(arrays[key]) for key in ("part_obj_logits", "generic_logits"))
    size, ids = tuple(facts["inputs"]["output_size"]), [vocabulary.object_id(name) for name in facts["gt_objects"]]
    owners = tuple(vocabulary.object_id(name) for name in vocabulary.objects_with_parts)
    scores = Scores(logits[:-1], tuple(range(parts)), logits[-1], size)
    squashed = dataclasses.replace(scores, resized_as="probabilities")
    gated = dataclasses.replace(scores, objects=Scores(others[generic:-1], owners, others[-1], size))

    def same(label_map, key):
        np.testing.assert_array_equal(label_map.numpy(), arrays[key])

    for system in ("ov_clipseg", "pc_clipseg", "partclipseg"):
        for rule in ("exact", "zero_others"):
            same(oracle_map(scores, ids, vocabulary, rule), f"{system}/sem_seg/argmax")
    for system in ("ov_catseg", "pc_catseg", "partcatseg"):
        same(oracle_map(squashed, ids, vocabulary, "substring"), f"{system}/sem_seg/argmax")
    same(pred_all_map(scores), "pc_clipseg/sem_seg_all/argmax")
    for system in ("pc_catseg", "partcatseg"):
        same(pred_all_map(squashed), f"{system}/sem_seg_all/argmax")
    same(pred_all_map(gated, vocabulary=vocabulary), "partclipseg/sem_seg_with_bg/argmax")
    same(pred_all_map(Scores(others[:generic], tuple(range(generic)), None, size)), "partclipseg/part_sem_seg/argmax")


def test_substrings_let_other_objects_parts_through_only_when_asked():
    scores = scores_of(TRAPS, 2)
    found = oracle_map(scores, TRAPS.object_id("door"), TRAPS, "substring").unique().tolist()
    assert found == [4, 5]  # "cabinet's door" holds the word


def test_saturated_probabilities_tie_under_the_released_rule_only():
    logits = torch.zeros(6, 2, 2)
    logits[2], logits[3] = 40.0, 50.0  # both probabilities are 1 in float32
    scores = Scores(logits, tuple(range(6)), None, (2, 2))
    ox = TRAPS.object_id("ox")
    assert oracle_map(scores, ox, TRAPS).unique().tolist() == [3]
    assert oracle_map(scores, ox, TRAPS, "zero_others").unique().tolist() == [2]
    scores.logits = logits - 200  # and here all of them are 0, like those of other objects
    assert oracle_map(scores, ox, TRAPS, "zero_others").unique().tolist() == [0]
