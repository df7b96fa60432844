import pytest
import torch

from ovparts_lib.runs import ParameterError, load_parameters, parameter_model, read_parameters, validate_parameters
from ovparts_lib.runs.parameters import OwnImageParameters, parameter_models

ClipsegParameters = parameter_model("20_clipseg")


def problem(values, model=ClipsegParameters):
    with pytest.raises(ParameterError) as caught:
        validate_parameters(model, values)
    return str(caught.value)


def test_defaults_are_the_released_training(params):
    released = {"batch_size": 8, "learning_rate": 1e-4, "weight_decay": 1e-4, "gradient_clip": 0.01, "poly_power": 0.9}
    assert {key: getattr(params, key) for key in released} == released
    assert (params.shortest_edge, params.longest_edge) == (800, 1333)


def test_every_model_knows_its_notebook_and_explains_every_key():
    for notebook, model in parameter_models().items():
        assert parameter_model(notebook) is model
        assert [key for key, field in model.model_fields.items() if not field.description and key != "notebook"] == []


@pytest.mark.parametrize(
    ("key", "given", "read"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", "5E-3", 5e-3),
        ("learning_rate", 1, 1.0),
        ("iterations", "2e4", 20000),
        ("iterations", 20000.0, 20000),
        ("evaluate_before_training", "False", False),
        ("trainable", ("film",), ["film"]),
    ],
)
def test_values_that_tools_hand_on_as_text_are_read(clipseg, key, given, read):
    value = getattr(validate_parameters(ClipsegParameters, clipseg | {key: given}), key)
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("learning_rate", "fast", "learning_rate = 'fast': expected a number"),
        ("learning_rate", True, "learning_rate = True: expected a number"),
        ("learning_rate", float("nan"), "expected a finite number"),
        ("learning_rate", -1, "learning_rate = -1.0: expected a value greater than 0"),
        ("gradient_clip", 0, "gradient_clip = 0.0: expected a value greater than 0"),
        ("iterations", 0.5, "iterations = 0.5: expected a whole number"),
        ("iterations", "many", "iterations = 'many': expected a whole number"),
        ("evaluate_before_training", 1, "evaluate_before_training = 1: expected true or false"),
        ("evaluate_before_training", "yes", "evaluate_before_training = 'yes': expected true or false"),
        ("data_root", 116, "data_root = 116: expected text; put it in quotes"),
        ("data_root", " ", "expected text that is not empty"),
        ("run", "../other", "run = '../other': expected a folder name"),
        ("run", "", "expected text that is not empty"),
        ("setting", "a/b", "expected a folder name"),
        ("setting", "..", "expected a folder name"),
        ("run", "x" * 200, "at most 120 characters"),
        ("device", "gpu", "device = 'gpu': expected auto, cpu, cuda or cuda:N"),
        ("device", "mps", "device = 'mps': expected auto, cpu, cuda or cuda:N"),
        ("trainable", "film", "trainable = 'film': expected a list"),
        ("trainable", ["film", "film"], "without repetitions"),
        ("trainable", ["decodr"], "trainable[0] = 'decodr'"),
        ("trainable", ["decodr"], "did you mean `decoder`?"),
        ("channel_order", "BGR", "expected 'rgb' or 'bgr'"),
        ("seed", 2**32, "seed = 4294967296: expected a value less than 4294967296"),
        ("protocols", [], "protocols = []: expected at least 1 item"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(clipseg, key, given, expected):
    message = problem(clipseg | {key: given})
    assert expected in message
    assert "\n" not in message
    assert "pydantic" not in message


def test_an_unknown_key_names_the_nearest(clipseg):
    assert "lerning_rate: unknown parameter; did you mean `learning_rate`?" in problem(clipseg | {"lerning_rate": 1})
    assert "known: seed, device, notebook, setting, run" in problem(clipseg | {"zzz": 1})


def test_all_problems_come_at_once(clipseg):
    del clipseg["run"]
    message = problem(clipseg | {"iteration": 5, "learning_rate": "fast", "workers": -1})
    assert message.startswith("4 problems with the parameters of 20_clipseg:")
    for part in ("run: missing; ", "did you mean `iterations`?", "learning_rate = 'fast'", "workers = -1"):
        assert part in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"iterations": 0}, "nothing to do"),
        ({"checkpoint": "x.pth"}, "set iterations to 0"),
        ({"checkpoint": "x.pth", "iterations": 0}, "give one of them"),
        ({"initialise_from": None}, "initialise_from, clip_weights: training begins from pretrained weights"),
        ({"trainable": []}, "needs at least one group"),
        ({"train_split": "val"}, "held out"),
        ({"evaluate_every": 200}, "larger than iterations"),
        ({"shortest_edge": 2000}, "shorter side"),
        ({"batch_size": 6, "accumulate": 4}, "multiple of accumulate"),
        ({"precision": "16-mixed", "device": "cpu"}, "needs a CUDA device"),
        ({"test_split": "val"}, "test_split: val cannot be scored; val_obj_condition"),
        ({"test_split": "train_obj_condition"}, "test_split: train_obj_condition cannot be scored"),
        ({"shots": 4}, "shots, train_split: shots are drawn for train_few_shot"),
        (
            {"dataset": "ade20k_part_234", "train_split": "train_few_shot", "test_split": "val_obj_condition"},
            "on val_few_shot, which leaves out",
        ),
        ({"test_root": "datasets/ADE20KPart234"}, "test_root, test_dataset: test_root is the folder of test_dataset"),
        ({"dataset": "partimagenet_seg", "ground_truth": "double_resized"}, "PartImageNet on its own labels"),
        ({"dataset": "coco_stuff_171"}, "dataset: coco_stuff_171 has labels of kind semantic, not parts"),
        ({"device": "cuda:1", "devices": 2}, "cuda:1 is one device; use cuda to train on 2"),
    ],
)
def test_values_that_contradict_each_other(clipseg, change, expected):
    assert expected in problem(clipseg | change)


@pytest.mark.parametrize(
    ("change", "devices", "expected"),
    [
        ({"precision": "16-mixed"}, 0, "16-mixed needs a CUDA device, and torch finds none for device = 'auto'"),
        ({"device": "cuda"}, 0, "device = 'cuda': torch finds no CUDA device"),
        ({"device": "cuda:2"}, 2, "device = 'cuda:2': the CUDA devices are cuda:0 to cuda:1"),
        ({"precision": "16-mixed"}, 1, None),
        ({"device": "cuda:1"}, 2, None),
        ({"precision": "bf16-mixed"}, 0, None),
    ],
)
def test_what_this_machine_lacks_is_refused_when_a_run_begins(clipseg, monkeypatch, change, devices, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    validate_parameters(ClipsegParameters, clipseg | change)  # it may be prepared anywhere
    if expected is None:
        assert read_parameters("20_clipseg", clipseg | change).run == "clipseg"
    else:
        with pytest.raises(ParameterError) as caught:
            read_parameters("20_clipseg", clipseg | change)
        assert expected in str(caught.value)


def test_scoring_a_checkpoint_needs_no_training(clipseg):
    scored = validate_parameters(
        ClipsegParameters, clipseg | {"initialise_from": None, "iterations": 0, "checkpoint": "clipseg.pth"}
    )
    assert scored.checkpoint == "clipseg.pth"


def test_own_words():
    own = {"setting": "own", "run": "bus", "images": ["bus.jpg"], "words": {"bus": ["door"]}, "model": "c"}
    assert validate_parameters(OwnImageParameters, own).words == {"bus": ["door"]}
    assert validate_parameters(OwnImageParameters, own | {"words": ["bus door"]}).words == ["bus door"]
    padded = validate_parameters(OwnImageParameters, own | {"words": {"bus ": [" door", "wheel"]}}).words
    assert padded == {"bus": ["door", "wheel"]}
    for words in (["door", "wheel", "door "], {"bus": ["door", "door"]}, {"bus": ["a"], " bus": ["door"]}):
        assert "expected each word once" in problem(own | {"words": words}, OwnImageParameters)
    for words in ("bus", [], {"bus": "door"}, {"bus": []}, [1]):
        assert "expected words as a list" in problem(own | {"words": words}, OwnImageParameters)


def write(folder, text):
    path = folder / "params.yaml"
    path.write_text(text)
    return path


YAML = "notebook: 01_miniature\nsetting: miniature\nrun: world\nclip_iterations: 10\n"


def test_yaml_with_overrides(root):
    path = write(root, YAML + "clip_pictures: 2e4\n")
    read = load_parameters(path, ["clip_iterations=2e3", "run=other", "device=cpu"])
    assert (read.clip_iterations, read.run, read.clip_pictures) == (2000, "other", 20_000)
    assert load_parameters("params.yaml").run == "world"  # found in the project root, from elsewhere


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("- a\n- b\n", "expected `key: value` lines, found ['a', 'b']"),
        (YAML + "run: again\n", "params.yaml, line 5: the key `run` is given twice"),
        (YAML + "a: [1\n", "line "),
        ("setting: x\nrun: y\n", "the key `notebook` is missing; it is one of 00_start_here"),
        ("notebook: 20_clipsge\n", "did you mean `20_clipseg`?"),
        ("notebook: [1]\n", "there is no such notebook"),
        (YAML + "train_image: 5\n", "params.yaml (01_miniature): train_image: unknown parameter; did you mean"),
    ],
)
def test_yaml_that_cannot_be_used(root, text, expected):
    with pytest.raises(ParameterError) as caught:
        load_parameters(write(root, text))
    assert expected in str(caught.value)
    assert str(caught.value).startswith(("params.yaml", "2 problems"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("iterations", "expected key=value"),
        ("=5", "expected key=value"),
        ("clip_iterations=[1", "cannot be read as YAML"),
        ("run=2024", "put it in quotes"),
        ("clip_iteration=5", "did you mean `clip_iterations`?"),
    ],
)
def test_overrides_that_cannot_be_used(root, override, expected):
    with pytest.raises(ParameterError, match=r"(?s).*") as caught:
        load_parameters(write(root, YAML), [override])
    assert expected in str(caught.value)


def test_a_missing_or_unreadable_file(root):
    with pytest.raises(ParameterError, match="there is no such parameter file"):
        load_parameters("nowhere.yaml")
    (root / "params.yaml").write_bytes(b"\xff\xfe\x00notebook")
    with pytest.raises(ParameterError, match="cannot be read"):
        load_parameters("params.yaml")
