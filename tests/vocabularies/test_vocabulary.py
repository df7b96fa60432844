"""The class lists against the tables recorded from the registration code of the reference repositories."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovparts_lib.vocabularies import (
    DATASET_VOCABULARIES,
    UnknownClassError,
    Vocabulary,
    load_vocabulary,
    split_part_name,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "vocabularies"
words = st.text(alphabet="abcdefghij -", min_size=1, max_size=8).map(str.strip).filter(bool)


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", DATASET_VOCABULARIES)
def test_derived_lists_equal_the_recorded_ones(name):
    vocabulary, recorded = load_vocabulary(name), golden(name)
    assert list(vocabulary.prompts) == recorded["prompt_names"]
    assert list(vocabulary.part_to_object) == recorded["object_of_part"]
    assert list(vocabulary.generic_parts) == recorded["generic_parts"]
    assert list(vocabulary.part_to_generic) == recorded["generic_part_of_part"]
    assert list(vocabulary.objects_with_parts) == recorded["objects_with_parts"]
    recorded_ranks = recorded["object_ids_to_object_with_parts_ids"]
    assert list(vocabulary.object_to_object_with_parts) == [recorded_ranks[str(i)] for i in range(len(recorded_ranks))]


@pytest.mark.parametrize("name", DATASET_VOCABULARIES)
def test_seen_split_and_training_maps_equal_the_recorded_ones(name):
    vocabulary, recorded = load_vocabulary(name), golden(name)
    assert [vocabulary.parts[i] for i in vocabulary.seen_part_ids] == recorded["base_parts"]
    assert [vocabulary.parts[i] for i in vocabulary.unseen_part_ids] == recorded["novel_parts"]
    assert list(vocabulary.seen.generic_parts) == recorded["base_generic_parts"]
    assert list(vocabulary.seen.objects_with_parts) == recorded["base_objects_with_parts"]
    for table, remap in (
        (vocabulary.part_table(vocabulary.seen), recorded["train_part_remap"]),
        (vocabulary.object_table(vocabulary.seen), recorded["train_object_remap"]),
    ):
        assert len(table) == vocabulary.ignore_label + 1
        kept = {str(old): int(new) for old, new in enumerate(table) if new != vocabulary.ignore_label}
        assert kept == remap


def test_published_sizes():
    sizes = {name: (len(v.objects), len(v.parts), len(v.seen_part_ids)) for name, v in _all().items()}
    assert sizes == {
        "pascal_part_116": (20, 116, 74),
        "ade20k_part_234": (44, 234, 176),
        "partimagenet_seg": (40, 147, 92),
        "partimagenet_ood": (128, 482, 410),
    }


def test_parts_of_an_object_are_found_by_exact_name():
    # ADE20K's "door" is a substring of no other object, but "table" is of "coffee table" and "pool table".
    vocabulary = load_vocabulary("ade20k_part_234")
    parts = [vocabulary.parts[i] for i in vocabulary.parts_of(vocabulary.object_id("table"))]
    assert len(parts) == 6
    assert all(part.startswith("table's ") for part in parts)


def test_hash_depends_on_everything_that_changes_labels():
    base = Vocabulary("a", ("dog's head", "cat's head"), ("dog", "cat"), frozenset({"cat"}))
    assert base.hash == Vocabulary("another name", base.parts, base.objects, base.unseen_objects).hash
    others = [
        Vocabulary("a", base.parts[::-1], base.objects, base.unseen_objects),
        Vocabulary("a", base.parts, base.objects[::-1], base.unseen_objects),
        Vocabulary("a", base.parts, base.objects),
        Vocabulary("a", base.parts, base.objects, base.unseen_objects, ignore_label=65535),
    ]
    assert len({base.hash, *(other.hash for other in others)}) == 5


def test_own_words_as_mapping_and_as_list():
    mapping = Vocabulary.from_words({"dog": ["head", "tail"], "car": ["wheel"]})
    assert mapping.parts == ("dog's head", "dog's tail", "car's wheel")
    assert mapping.objects == ("dog", "car")
    assert mapping.seen_part_ids == ()
    flat = Vocabulary.from_words(["car wheel", "bus's door"])
    assert flat.prompts == ("car wheel", "bus door")
    assert flat.objects == ("car wheel", "bus")
    padded = Vocabulary.from_words({" dog ": [" head", "tail "]})
    assert (padded.parts, padded.objects, padded.generic_parts) == (
        ("dog's head", "dog's tail"),
        ("dog",),
        ("head", "tail"),
    )
    assert Vocabulary.from_words([" bus's  door "]).parts == ("bus's door",)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ([], "at least one word"),
        ("dog head", "must be a list"),
        ({"dog": "head"}, "parts of 'dog'"),
        (["head", "head"], "appear twice: head"),
        (["head", " "], "empty"),
        (["dog's"], "a word is empty, in {'dog': \\[''\\]}"),
        (["'s head"], "a word is empty"),
        ({"dog": ["head", " "]}, "a word is empty"),
        ({" ": ["head"]}, "a word is empty"),
        ({"dog": ["head", " head "]}, "appear twice: dog's head"),
        (["dog's head", "dog's  head"], "appear twice: dog's head"),
    ],
)
def test_unusable_own_words_are_refused_with_a_reason(own, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_words(own)


def test_unknown_names_are_answered_with_the_nearest():
    vocabulary = load_vocabulary("pascal_part_116")
    with pytest.raises(UnknownClassError, match='did you mean "dog\'s head"'):
        vocabulary.part_id("dog's hed")
    with pytest.raises(UnknownClassError, match="did you mean 'motorbike'"):
        vocabulary.object_id("motorbikes")
    with pytest.raises(UnknownClassError, match="pascal_part_116, ade20k_part_234"):
        load_vocabulary("pascal_part")


def test_a_vocabulary_that_contradicts_itself_is_refused():
    with pytest.raises(UnknownClassError, match="no object 'cat'"):
        Vocabulary("a", ("cat's head",), ("dog",))
    with pytest.raises(ValueError, match="ignore_label 1 is also a class index"):
        Vocabulary("a", ("dog's head", "dog's tail"), ("dog",), ignore_label=1)


@given(st.dictionaries(words, st.lists(words, unique=True, min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_remap_keeps_names_and_sends_the_rest_to_ignore(own, data):
    full = Vocabulary.from_words(own)
    unseen = data.draw(st.sets(st.sampled_from(full.objects), max_size=len(full.objects) - 1))
    full = Vocabulary(full.name, full.parts, full.objects, frozenset(unseen), full.ignore_label)
    table = full.part_table(full.seen)
    for old, name in enumerate(full.parts):
        if split_part_name(name)[0] in unseen:
            assert table[old] == full.seen.ignore_label
        else:
            assert full.seen.parts[table[old]] == name
    assert np.all(table[len(full.parts) :] == full.seen.ignore_label)


def _all():
    return {name: load_vocabulary(name) for name in DATASET_VOCABULARIES}
