import subprocess
import sys

import pytest

from ovparts_lib.data.files import DatasetError
from ovparts_lib.data.registry import DATASETS, open_reader, verify_dataset
from ovparts_lib.vocabularies import OBJECT_VOCABULARIES, PART_VOCABULARIES, load_vocabulary


def test_names_and_titles_are_those_of_the_vocabularies():
    assert DATASETS.keys() - {"own"} == {*PART_VOCABULARIES, *OBJECT_VOCABULARIES}
    for name in DATASETS.keys() - {"own"}:
        assert load_vocabulary(name).title == DATASETS[name].title


def test_the_registry_says_the_splits_of_the_readers_and_needs_no_torch(root, ade_root, tmp_path):
    readers = [open_reader("pascal_part_116", root), open_reader("ade20k_part_234", ade_root)]
    readers += [open_reader(name, tmp_path) for name in DATASETS if name.startswith("partimagenet")]
    for reader in readers:
        assert sorted(reader.settings) == sorted(DATASETS[reader.name].settings)
        conditioned = {split for split in reader.settings if reader.split(split).conditioned}
        assert set(DATASETS[reader.name].splits("evaluation")) <= conditioned
    code = "import sys, ovparts_lib.data.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
