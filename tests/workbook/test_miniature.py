"""The miniature as its notebook makes it."""

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
