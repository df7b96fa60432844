import pytest

from ovparts_lib.data import READERS, DatasetError, open_reader, verify_dataset
from ovparts_lib.vocabularies import load_vocabulary


def test_names_and_titles_are_those_of_the_vocabularies():
    for name, entry in READERS.items():
        assert load_vocabulary(name).title == entry.title


def test_a_dataset_is_opened_and_verified_by_name(root, tmp_path):
    reader = open_reader("pascal_part_116", root, cache_folder=tmp_path / "cache")
    assert reader.vocabulary.name == "pascal_part_116" and reader.cache_folder == tmp_path / "cache"
    report = verify_dataset("pascal_part_116", root)
    assert report.ok and report.dataset == "Pascal-Part-116"
    with pytest.raises(DatasetError, match="no such folder"):
        open_reader("pascal_part_116", tmp_path / "nowhere")
    assert not verify_dataset("pascal_part_116", tmp_path / "nowhere").ok


@pytest.mark.parametrize("use", [open_reader, verify_dataset])
def test_an_unknown_dataset_names_the_nearest_and_all(use, tmp_path):
    with pytest.raises(ValueError, match=r"'pascal_part_117' \(did you mean 'pascal_part_116'\?\); there are pascal"):
        use("pascal_part_117", tmp_path)
