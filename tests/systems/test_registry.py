import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ovparts_lib.checkpoints.clip import save_clip
from ovparts_lib.checkpoints.reading import CheckpointError, LoadReport
from ovparts_lib.models.clip.towers import MINIATURE, build_clip
from ovparts_lib.systems.clipseg.model import MINIATURE_QUERY, Clipseg
from ovparts_lib.systems.query_weights import hub_names
from ovparts_lib.systems.registry import SYSTEMS, load_system, system_of
from ovparts_lib.systems.system import System
from tests.golden.released_catseg import filled_state
from tests.systems.catseg.tiny import tiny_catseg
from tests.systems.partcatseg.tiny import tiny_partcatseg

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
        ("ovseg/swinB_vitL14", "ovseg"),
        ("ovseg/r101c_vitB16", "ovseg"),
        ("scan/scan_vitL", "scan"),
        ("scan/scan_vitB", "scan"),
    ],
)
def test_a_released_file_goes_to_the_loader_of_its_system(manifest, system, tmp_path, monkeypatch):
    keys = json.loads((GOLDEN / f"{manifest}.manifest.json").read_text(encoding="utf-8"))["keys"]
    path = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(1) for name in keys}, path)
    called, whole = [], LoadReport(str(path), "whole", ())
    monkeypatch.setattr(System, "load", lambda self, *a, **k: called.append((self.name, a[0])) or (None, whole))
    load_system(path)
    assert called == [(system, path)]


def test_a_file_that_only_begins_a_system_is_refused_unless_asked_for(tmp_path):
    # As the hub has CLIPSeg: neither visual adapter nor background query.
    path = tmp_path / "model.safetensors"
    names = hub_names(Clipseg(MINIATURE_QUERY).state_dict())
    kept = {name: tensor.contiguous() for name, tensor in names.items() if name.startswith(("clip.", "decoder."))}
    save_file(kept, path)
    missing = "visual_adapter.down.weight, visual_adapter.up.weight"
    with pytest.raises(CheckpointError) as caught:
        load_system(path, size=MINIATURE_QUERY)
    message = str(caught.value)
    assert "does not hold all of CLIPSeg: 3 tensors would stay random" in message
    assert missing in message and "background_query" in message and "allow_untrained" in message
    model, report = load_system(path, size=MINIATURE_QUERY, allow_untrained=True)
    assert type(model) is Clipseg
    assert len(report.initialised) == 3


@pytest.mark.slow
def test_cat_segs_own_file_is_refused_for_its_background(tmp_path):
    path = tmp_path / "model_final_base.pth"
    state = filled_state("ovparts_catseg_r101")
    del state["sem_seg_head.predictor.non_object_embedding"]
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError, match=r"CATSeg: 1 tensor would stay random, background_text\. Train from it"):
        load_system(path)


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["visual.conv1.weight", "text_projection"], "CLIP"),
        (["text_model.final_layer_norm.weight", "vision_model.embeddings.class_embedding"], "CLIP"),
        (["cls_token", "pos_embed", "patch_embed.proj.weight"], "DINOv2"),
        (["conv1.weight", "layer1.0.conv1.weight"], "a ResNet"),
    ],
)
def test_weights_of_one_part_of_a_system_are_named(names, part, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({name: torch.zeros(1) for name in names}, path)
    with pytest.raises(CheckpointError, match=f"holds {part} alone, which is a part of a system"):
        load_system(path, allow_untrained=True)


def test_our_own_clip_is_no_system(tmp_path):
    save_clip(build_clip(MINIATURE), MINIATURE, tmp_path / "clip.safetensors")
    with pytest.raises(CheckpointError, match="holds CLIP alone"):
        load_system(tmp_path / "clip.safetensors")


def test_what_we_save_is_whole(tmp_path):
    for system, model in (("catseg", tiny_catseg()), ("partcatseg", tiny_partcatseg())):
        SYSTEMS[system].save(model, tmp_path / f"{system}.safetensors")
        loaded, report = load_system(tmp_path / f"{system}.safetensors")
        assert report.initialised == ()
        assert system_of(loaded) is SYSTEMS[system]


def test_a_run_folder_without_weights_says_so(tmp_path):
    (tmp_path / "params.yaml").write_text("notebook: 20_clipseg\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="finish that run first"):
        load_system(tmp_path)


def test_each_system_says_its_sizes_and_what_trains():
    for name, system in SYSTEMS.items():
        assert {"released", "miniature"} <= set(system.sizes), name
        assert all(beginnings for beginnings in system.model_class.groups.values())
    assert len({system.marks for system in SYSTEMS.values()}) == len(SYSTEMS)
