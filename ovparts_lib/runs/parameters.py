"""The parameters of each notebook: one pydantic model per notebook, flat keys, as papermill passes them.

To add a parameter, add a line to a model here, or to a system's ``options.py``; where runs differ in it, a line to the
YAML files under ``params/``; and where people change it often, a line to the notebook's ``parameters`` cell. A field
without a default must be given by every run.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, create_model

from ovparts_lib.data.registry import DATASETS
from ovparts_lib.options import Edge, Flag, Listed, Name, Options, Protocol, Text, Whole, Words, free
from ovparts_lib.runs.project import resolve_path
from ovparts_lib.systems.options import MINIATURE_WORLD, MINICLIP, Dataset
from ovparts_lib.systems.registry import SYSTEMS
from ovparts_lib.systems.system import System

OBJECT_LEVEL = tuple(name for name, entry in DATASETS.items() if entry.kind == "semantic")
MINIATURE_ROOT = f"{MINIATURE_WORLD}/PascalPart116"


Splits = Annotated[list[Name], Listed, Field(min_length=1, description="splits to count and show")]
Samples = Annotated[Whole, Field(ge=1, le=64, description="pictures shown")]
Intervals = Annotated[Whole, Field(ge=2, description="sets of images drawn for the confidence intervals")]


class RunParameters(Options):
    """What every run has. Read with :func:`ovparts_lib.runs.load_params.validate_parameters` for readable errors.

    Attributes:
        reuse: whether a complete run stands for itself, or is redone because it collects what others have left since.
    """

    reuse: ClassVar[bool] = True

    notebook: Text = Field(description="the notebook that this run executes, without .ipynb")
    setting: Name = Field(description="first folder level below outputs, e.g. zero_shot")
    run: Name = Field(description="second folder level below outputs: the name of this run")
    outputs: Text = free("outputs", description="folder that holds all runs, relative to the project root")

    @property
    def folder(self) -> Path:
        """The run folder, ``outputs/<setting>/<run>``, as an absolute path."""
        return resolve_path(self.outputs) / self.setting / self.run

    @classmethod
    def free_keys(cls) -> frozenset[str]:
        """Keys that do not change results, and the names that say where a run lies."""
        return super().free_keys() | {"setting", "run"}


class StartHereParameters(RunParameters):
    """00_start_here: what is where, which device, a first look at the miniature."""

    reuse = False
    notebook: Literal["00_start_here"] = "00_start_here"
    data_root: Text = Field(MINIATURE_ROOT, description="where the miniature is rendered; made if it is not there")
    samples: Samples = 8


class MiniatureParameters(RunParameters):
    """01_miniature: render the miniature world and train its CLIP."""

    notebook: Literal["01_miniature"] = "01_miniature"
    data_root: Text = Field(MINIATURE_ROOT, description="where the rendered data set is written")
    train_images: Whole = Field(1000, ge=1, description="training images to render")
    val_images: Whole = Field(100, ge=1, description="validation images to render")
    render_seed: Whole = Field(0, ge=0, description="seed of the renderer")
    layouts: Annotated[list[Dataset], Listed] = Field(
        [
            "ade20k_part_234",
            "partimagenet_seg",
            "partimagenet_ood",
            "coco_stuff_171",
            "ade20k_150",
            "pascal_context_59",
        ],
        description="other data sets in whose layout it is rendered too, into folders beside data_root",
    )
    layout_train_images: Whole = Field(200, ge=1, description="training images of each of those")
    layout_val_images: Whole = Field(40, ge=1, description="validation images of each of those")
    samples: Samples = 8
    clip_weights: Text = Field(MINICLIP, description="where MiniClip is written")
    clip_test_pictures: Whole = Field(200, ge=1, description="held-out scenes and close-ups that MiniClip is tested on")
    clip_iterations: Whole = Field(0, ge=0, description="steps of a new MiniClip; 0: the one that comes with it")
    clip_pictures: Whole = Field(25_600, ge=2, description="pictures, and scenes, that a new MiniClip learns from")


class DataParameters(RunParameters):
    """What every notebook that verifies a data set and looks at it has."""

    dataset: Dataset = Field(description="which reader reads data_root")
    data_root: Text = Field(description="folder of the data set as released")
    splits: Splits
    samples: Samples = Field(8, description="pictures shown per split")


class PascalPart116Parameters(DataParameters):
    """10_data_pascal_part_116: verify the data set, look at samples and class frequencies."""

    notebook: Literal["10_data_pascal_part_116"] = "10_data_pascal_part_116"
    dataset: Literal["pascal_part_116"] = Field("pascal_part_116", description="which reader reads data_root")
    data_root: Text = Field(MINIATURE_ROOT, description="folder of Pascal-Part-116 as released")
    splits: Splits = Field(["train", "val"])


class AdePart234Parameters(DataParameters):
    """11_data_ade20k_part_234: build the data set from ADE20K if need be, verify it, look at it."""

    notebook: Literal["11_data_ade20k_part_234"] = "11_data_ade20k_part_234"
    dataset: Literal["ade20k_part_234"] = Field("ade20k_part_234", description="which reader reads data_root")
    data_root: Text = Field(f"{MINIATURE_WORLD}/ADE20KPart234", description="folder of ADE20K-Part-234 as released")
    source: Text | None = Field(None, description="ADE20K's full release, from which data_root is built; or none")
    splits: Splits = Field(["train", "val_obj_condition"])


class PartImageNetParameters(DataParameters):
    """12_data_partimagenet: verify PartImageNet, in its 40-object selection or its original split, and look at it."""

    notebook: Literal["12_data_partimagenet"] = "12_data_partimagenet"
    dataset: Literal["partimagenet_seg", "partimagenet_ood"] = Field(
        "partimagenet_seg", description="seg: the 40 objects of open-vocabulary part segmentation; ood: all 128"
    )
    data_root: Text = Field(f"{MINIATURE_WORLD}/PartImageNet", description="folder of PartImageNet as released")
    splits: Splits = Field(["train", "val_obj_condition"])


class ObjectLevelParameters(DataParameters):
    """13_data_object_level: verify a benchmark of whole objects and stuff, look at it, and at what the lists share."""

    notebook: Literal["13_data_object_level"] = "13_data_object_level"
    dataset: Literal[OBJECT_LEVEL] = Field(  # type: ignore[valid-type]
        "coco_stuff_171", description="which benchmark lies at data_root"
    )
    data_root: Text = Field(f"{MINIATURE_WORLD}/coco", description="folder of the benchmark")
    splits: Splits = Field(["train", "val"])
    test_lists: Annotated[list[Literal[OBJECT_LEVEL]], Listed, Field(min_length=1)] = Field(  # type: ignore[valid-type]
        ["ade20k_150", "ade20k_847", "pascal_context_59", "pascal_context_459", "pascal_voc_20"],
        description="class lists whose names are looked up in that of dataset",
    )


class ResultsParameters(RunParameters):
    """30_results: all runs found, side by side with published numbers."""

    reuse = False
    notebook: Literal["30_results"] = "30_results"
    settings: Annotated[list[Name], Listed] = Field(description="settings compared; an empty list compares all")
    protocol: Protocol = Field("recommended", description="protocol of the comparison")
    baseline: Text | None = Field(None, description="setting/run/stage that others are compared with; none: the first")
    intervals: Intervals = 1000
    published: Flag = Field(True, description="show the published numbers of the same setting beside ours")


class CompareProtocolsParameters(RunParameters):
    """32_compare_protocols: one run's stored counts under every protocol, and why the figures differ."""

    reuse = False
    notebook: Literal["32_compare_protocols"] = "32_compare_protocols"
    scored_run: Text = Field(description="folder of a run that has been scored")
    stage: Name = Field("after", description="which of its evaluations")
    intervals: Intervals = 1000


class OwnImageParameters(RunParameters):
    """31_own_image: own photographs and own words, no annotation."""

    reuse = False
    notebook: Literal["31_own_image"] = "31_own_image"
    images: Annotated[list[Text], Listed, Field(min_length=1)] = Field(description="photographs")
    words: Words = Field(description="what to look for: [head, tail] or {dog: [head, tail]}")
    model: Text = Field(description="folder of a finished run, or a checkpoint file or folder")
    clip_weights: Text | None = Field(None, description="CLIP weights where the checkpoint holds only a decoder")
    allow_untrained: Flag = Field(False, description="take a file that lacks some of its system, which is then random")
    templates: Text | None = Field(None, description="prompt templates of a CATSeg file trained with others than 80")
    test_shortest_edge: Edge = Field(
        "as_trained",
        description="photographs get this shorter side for CATSeg and PartCATSeg; null keeps their size, as those "
        "trained on PartImageNet want",
    )
    background: Flag = Field(True, description="also offer 'none of these words'")
    masks: Annotated[list[Text], Listed, Field(min_length=1)] | None = Field(
        None,
        description="own masks for each photograph in place of a system's proposals: a folder of PNG files or an array",
    )
    attention: Flag = Field(True, description="draw attention maps")


@cache
def system_parameters(system: System) -> type[RunParameters]:
    """The parameters model of a system's notebook."""
    return create_model(
        f"{system.title}Parameters",
        __base__=(system.options, RunParameters),
        __doc__=f"{system.notebook}: train {system.title} or load a checkpoint, then score and inspect it.",
        notebook=(Literal[system.notebook], Field(system.notebook, description="the notebook that this run executes")),
    )


def parameter_models() -> dict[str, type[RunParameters]]:
    """The parameters model of each notebook, by the notebook's name and in its order."""
    models = [
        StartHereParameters,
        MiniatureParameters,
        PascalPart116Parameters,
        AdePart234Parameters,
        PartImageNetParameters,
        ObjectLevelParameters,
        ResultsParameters,
        OwnImageParameters,
        CompareProtocolsParameters,
        *map(system_parameters, SYSTEMS.values()),
    ]
    return dict(sorted((model.model_fields["notebook"].default, model) for model in models))


def parameter_model(notebook: str) -> type[RunParameters]:
    """The parameters model of a notebook.

    Raises:
        KeyError: there is no such notebook.
    """
    return parameter_models()[notebook]
