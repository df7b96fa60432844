import shutil

from ovparts_lib.data.audit import shared_pictures, words_known_from_training
from ovparts_lib.data.files import Record
from ovparts_lib.vocabularies import PartVocabulary, load_vocabulary


def record(path):
    return Record(path, path, None, path.stem)


def test_a_training_picture_in_the_test_split_is_found_under_another_name(tmp_path):
    contents = {"a.jpg": b"one", "b.jpg": b"two", "c.jpg": b"longer"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "d.jpg").write_bytes(b"owt")  # as long as two others, but none of them
    shutil.copy(tmp_path / "b.jpg", tmp_path / "test" / "e.jpg")
    training = [record(tmp_path / name) for name in contents]
    test = [record(tmp_path / "test" / name) for name in ("d.jpg", "e.jpg")]
    assert shared_pictures(training, test) == [(tmp_path / "b.jpg", tmp_path / "test" / "e.jpg")]
    assert shared_pictures(training, test[:1]) == []


def test_unseen_words_that_another_dataset_has_taught_are_named():
    training, test = load_vocabulary("ade20k_part_234").seen, load_vocabulary("pascal_part_116")
    table = words_known_from_training(training, test)
    assert set(table["object"]) == {"car"}
    by_hand = {part for part in test.parts if part.startswith(("bird's", "car's", "dog's", "motorbike's", "sheep's"))}
    assert set(table["part"]) == by_hand & set(training.parts)


def test_nothing_is_known_of_words_of_ones_own():
    words = PartVocabulary.from_words({"griffin": ["beak"]})
    assert words_known_from_training(load_vocabulary("pascal_part_116").seen, words).empty
