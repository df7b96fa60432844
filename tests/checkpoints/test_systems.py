import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ovparts_lib.checkpoints.reading import CheckpointError
from ovparts_lib.checkpoints.systems import SYSTEMS, load_system

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    ("manifest", "system"),
    [
        ("clipseg/finetuned", "clipseg"),
        ("clipseg/hub_clipseg-rd64-refined", "clipseg"),
        ("catseg/ovparts_catseg_r101", "catseg"),
        ("catseg/partcatseg_catseg_dinov2", "catseg"),
        ("partcatseg/partcatseg", "partcatseg"),
        ("partclipseg/partclipseg", "partclipseg"),
    ],
)
def test_a_released_file_goes_to_the_loader_of_its_system(manifest, system, tmp_path, monkeypatch):
    keys = json.loads((GOLDEN / f"{manifest}.manifest.json").read_text(encoding="utf-8"))["keys"]
    path = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(1) for name in keys}, path)
    called = []
    for name, entry in list(SYSTEMS.items()):
        changed = type(entry)(
            **{**vars(entry), "load": lambda *a, name=name, **k: called.append((name, a[0])) or (None, None)}
        )
        monkeypatch.setitem(SYSTEMS, name, changed)
    load_system(path)
    assert called == [(system, path)]


def test_a_run_folder_without_weights_says_so(tmp_path):
    (tmp_path / "params.yaml").write_text("notebook: 20_clipseg\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="finish that run first"):
        load_system(tmp_path)


def test_each_system_says_its_sizes_and_what_trains():
    for name, system in SYSTEMS.items():
        assert {"released", "miniature"} <= set(system.sizes), name
        assert all(beginnings for beginnings in system.groups.values())
    assert [name for name, system in SYSTEMS.items() if not system.mark] == [list(SYSTEMS)[-1]]
