"""The class lists against the tables recorded from the registration code of the reference repositories."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovparts_lib.vocabularies import (
    OBJECT_VOCABULARIES,
    PART_VOCABULARIES,
    PartVocabulary,
    UnknownClassError,
    Vocabulary,
    load_vocabulary,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "vocabularies"
words = st.text(alphabet="abcdefghij -", min_size=1, max_size=8).map(str.strip).filter(bool)


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PART_VOCABULARIES)
def test_derived_lists_equal_the_recorded_ones(name):
    vocabulary, recorded = load_vocabulary(name), golden(name)
    assert list(vocabulary.prompts) == recorded["prompt_names"]
    assert list(vocabulary.part_to_object) == recorded["object_of_part"]
    assert list(vocabulary.generic_parts) == recorded["generic_parts"]
    assert list(vocabulary.part_to_generic) == recorded["generic_part_of_part"]
    assert list(vocabulary.objects_with_parts) == recorded["objects_with_parts"]
    recorded_ranks = recorded["object_ids_to_object_with_parts_ids"]
    assert list(vocabulary.object_to_object_with_parts) == [recorded_ranks[str(i)] for i in range(len(recorded_ranks))]


@pytest.mark.parametrize("name", PART_VOCABULARIES)
def test_seen_split_and_training_maps_equal_the_recorded_ones(name):
    vocabulary, recorded = load_vocabulary(name), golden(name)
    assert [vocabulary.parts[i] for i in vocabulary.seen_ids] == recorded["base_parts"]
    assert [vocabulary.parts[i] for i in vocabulary.unseen_ids] == recorded["novel_parts"]
    assert list(vocabulary.seen.generic_parts) == recorded["base_generic_parts"]
    assert list(vocabulary.seen.objects_with_parts) == recorded["base_objects_with_parts"]
    for table, remap in (
        (vocabulary.table(vocabulary.seen), recorded["train_part_remap"]),
        (vocabulary.object_table(vocabulary.seen), recorded["train_object_remap"]),
    ):
        assert len(table) == vocabulary.ignore_label + 1
        kept = {str(old): int(new) for old, new in enumerate(table) if new != vocabulary.ignore_label}
        assert kept == remap


def test_published_sizes():
    sizes = {name: (len(v.objects), len(v.parts), len(v.seen_ids)) for name, v in _all().items()}
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
    base = PartVocabulary("a", ("dog's head", "cat's head"), ("dog", "cat"), frozenset({"cat"}))
    assert base.hash == PartVocabulary("another name", base.parts, base.objects, base.unseen_objects).hash
    others = [
        PartVocabulary("a", base.parts[::-1], base.objects, base.unseen_objects),
        PartVocabulary("a", base.parts, base.objects[::-1], base.unseen_objects),
        PartVocabulary("a", base.parts, base.objects),
        PartVocabulary("a", base.parts, base.objects, base.unseen_objects, ignore_label=65535),
    ]
    assert len({base.hash, *(other.hash for other in others)}) == 5


def test_own_words_as_mapping_and_as_list():
    mapping = PartVocabulary.from_words({"dog": ["head", "tail"], "car": ["wheel"]})
    assert mapping.parts == ("dog's head", "dog's tail", "car's wheel")
    assert mapping.objects == ("dog", "car")
    assert mapping.seen_ids == ()
    flat = PartVocabulary.from_words(["car wheel", "bus's door"])
    assert flat.prompts == ("car wheel", "bus door")
    assert flat.objects == ("car wheel", "bus")
    padded = PartVocabulary.from_words({" dog ": [" head", "tail "]})
    assert (padded.parts, padded.objects, padded.generic_parts) == (
        ("dog's head", "dog's tail"),
        ("dog",),
        ("head", "tail"),
    )
    assert PartVocabulary.from_words([" bus's  door "]) == PartVocabulary.from_words({"bus": ["door"]})


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ([], "at least one word"),
        ("dog head", "must be a list"),
        ({"dog": "head"}, "parts of 'dog'"),
        (["head", "head"], "appear twice: head"),
        (["head", " "], "empty"),
        (["dog's"], "\"dog's\" lacks a part after its 's"),
        (["it's"], "\"it's\" lacks a part after its 's"),
        (["'s head"], "\"'s head\" lacks an object before its 's"),
        ({"dog": ["head", " "]}, "a word is empty"),
        ({" ": ["head"]}, "a word is empty"),
        ({"dog": ["head", " head "]}, "appear twice: dog's head"),
        (["dog's head", "dog's  head"], "appear twice: dog's head"),
    ],
)
def test_unusable_own_words_are_refused_with_a_reason(own, message):
    with pytest.raises(ValueError, match=message):
        PartVocabulary.from_words(own)


@pytest.mark.parametrize("mark", "\u2019\u2018\u02bc\uff07\u2032\u00b4`")
def test_typographic_apostrophes_mean_the_same(mark):
    assert PartVocabulary.from_words([f"dog{mark}s head"]) == PartVocabulary.from_words(["dog's head"])
    assert PartVocabulary.from_words({f"lord{mark}s table": ["leg"]}).objects == ("lord's table",)


@pytest.mark.parametrize("mark", "\u200b\u00ad\ufeff\u200e\u200f\u202e\u2066\u0000\u0007\ud800")
def test_what_cannot_be_seen_in_a_word_is_left_out(mark):
    assert PartVocabulary.from_words([f"{mark}dog's{mark} he{mark}ad{mark}"]).parts == ("dog's head",)
    with pytest.raises(ValueError, match="appear twice: head"):
        PartVocabulary.from_words(["head", f"he{mark}ad"])
    with pytest.raises(ValueError, match="a word is empty"):
        PartVocabulary.from_words([f"{mark}\u200d"])


def test_what_joins_letters_and_emoji_is_seen():
    words = ["\U0001f468\u200d\U0001f469", "\u0645\u06cc\u200c\u062e\u0648", "\u2764\ufe0f"]
    assert list(PartVocabulary.from_words(words).parts) == words


def test_an_s_inside_a_word_is_no_possessive():
    words = PartVocabulary.from_words(["car'side", "bird's-eye view", "lord's table's leg"])
    assert words.pairs == (("car'side",) * 2, ("bird's-eye view",) * 2, ("lord", "table's leg"))
    assert words.parts == ("car'side", "bird's-eye view", "lord's table's leg")
    assert words.prompts == ("car'side", "bird's-eye view", "lord table's leg")


def test_a_part_belongs_to_the_longest_object_its_name_begins_with():
    words = PartVocabulary.from_words({"dog": ["ear"], "dog's house": ["door"]})
    assert words.pairs == (("dog", "ear"), ("dog's house", "door"))


def test_object_level_lists_are_taken_verbatim():
    """Lengths and samples of the released registration code; the names may hold synonyms, blanks, and possessives."""
    lists = {name: load_vocabulary(name) for name in OBJECT_VOCABULARIES}
    assert {name: (len(v.classes), v.ignore_label) for name, v in lists.items()} == {
        "coco_stuff_171": (171, 255),
        "ade20k_150": (150, 255),
        "ade20k_847": (847, 65535),
        "pascal_context_59": (59, 255),
        "pascal_context_459": (459, 65535),
        "pascal_voc_20": (20, 255),
    }
    altar = lists["ade20k_847"].class_id("altar, communion table, lord's table")
    assert lists["ade20k_847"].prompts[altar] == "altar, communion table, lord's table"
    assert lists["ade20k_150"].classes[8] == "window "
    for vocabulary in lists.values():
        assert type(vocabulary) is Vocabulary
        assert (vocabulary.unseen, vocabulary.seen.classes) == (frozenset(), vocabulary.classes)


def test_seen_classes_and_tables_of_a_list():
    vocabulary = Vocabulary("list", ("wall", "sky", "dog's head"), {"sky"}, ignore_label=9)
    assert (vocabulary.seen_ids, vocabulary.unseen_ids, vocabulary.is_seen(1)) == ((0, 2), (1,), False)
    assert vocabulary.seen.classes == ("wall", "dog's head")
    assert vocabulary.table(vocabulary.seen).tolist() == [0, 9, 1, *[9] * 7]
    assert vocabulary.hash != Vocabulary("list", vocabulary.classes, ignore_label=9).hash
    with pytest.raises(UnknownClassError, match="has no class 'skies'; did you mean 'sky'"):
        vocabulary.class_id("skies")
    with pytest.raises(ValueError, match="class names appear twice: wall"):
        Vocabulary("list", ("wall", "wall"))
    with pytest.raises(ValueError, match="ignore_label 1 is also a class index"):
        Vocabulary("list", ("wall", "sky"), ignore_label=1)


@pytest.mark.parametrize(
    ("name", "recorded"),
    [
        ("pascal_part_116", "19c6a9a68a013efd"),
        ("ade20k_part_234", "9473c81bd3b080a0"),
        ("partimagenet_seg", "00f033c2a9181cb3"),
        ("partimagenet_ood", "49ff2364b235b92e"),
    ],
)
def test_the_hashes_that_stored_runs_name_stay(name, recorded):
    assert load_vocabulary(name).hash == recorded


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
        PartVocabulary("a", ("cat's head",), ("dog",))
    with pytest.raises(ValueError, match="ignore_label 1 is also a class index"):
        PartVocabulary("a", ("dog's head", "dog's tail"), ("dog",), ignore_label=1)


@given(st.dictionaries(words, st.lists(words, unique=True, min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_remap_keeps_names_and_sends_the_rest_to_ignore(own, data):
    full = PartVocabulary.from_words(own)
    unseen = data.draw(st.sets(st.sampled_from(full.objects), max_size=len(full.objects) - 1))
    full = PartVocabulary(full.name, full.parts, full.objects, frozenset(unseen), full.ignore_label)
    table = full.table(full.seen)
    for old, name in enumerate(full.parts):
        if full.pairs[old][0] in unseen:
            assert table[old] == full.seen.ignore_label
        else:
            assert full.seen.parts[table[old]] == name
    assert np.all(table[len(full.parts) :] == full.seen.ignore_label)


def _all():
    return {name: load_vocabulary(name) for name in PART_VOCABULARIES}
