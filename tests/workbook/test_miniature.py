"""The miniature as its notebook makes it."""

from unittest.mock import MagicMock

import pytest
import torch

from ovparts_lib.miniature.shipped import miniclip_facts
from ovparts_lib.runs import load_parameters
from ovparts_lib.workbook import miniature


def test_a_miniature_with_other_settings_is_replaced_with_all_its_layouts(tmp_path, capsys):
    root = tmp_path / "PascalPart116"

    def told(train):
        counts = [f"train_images={train}", "val_images=1", "layout_train_images=2", "layout_val_images=1"]
        where = [f"data_root={root}", "layouts=[partimagenet_seg]"]
        miniature.render(load_parameters("params/miniature/01_miniature.yaml", counts + where))
        assert len(list((root / "images" / "train").iterdir())) == train
        return [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]

    assert told(1) == ["rendered", "rendered"]
    assert told(2) == ["rendered", "found"]
    assert told(2) == ["found", "found"]


@pytest.mark.parametrize(("iterations", "told"), [(0, "of the package: 3000 steps"), (1, "trained now: 1 step")])
def test_miniclip_is_the_packages_or_a_new_one_and_says_which(tmp_path, capsys, monkeypatch, iterations, told):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    path, output = tmp_path / "clip.safetensors", MagicMock()
    device = torch.device("cpu")
    made = miniature.miniclip(str(path), output, iterations=iterations, pictures=16, seed=0, device=device)
    assert told in capsys.readouterr().out
    assert made.history["step"].iloc[-1] <= 3000 and path.is_file()
    about = output.note.call_args.kwargs["miniclip"]
    assert about == ({"steps": 1, "pictures": 16} if iterations else {k: miniclip_facts()[k] for k in about})
