"""The parameters of each notebook: one pydantic model per notebook, flat keys, as papermill passes them.

To add a parameter, add a line to a model here, a line to the notebook's ``parameters`` cell, and, where runs differ in
it, a line to the YAML files under ``params/``. A field without a default must be given by every run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ovparts_lib.runs.project import resolve_path
from ovparts_lib.runs.values import Device, Flag, Listed, Name, Number, Protocols, Text, Whole, Words, free

PascalSplit = Literal["train", "train_obj_condition", "train_few_shot", "val", "val_obj_condition"]
Trainable = Literal["visual_adapter", "language", "film", "decoder", "background_query"]
TRAINABLE = ["visual_adapter", "language", "film", "decoder"]
MINIATURE_ROOT = "outputs/miniature/world/PascalPart116"
MINICLIP = "outputs/miniature/world/miniclip.safetensors"


class RunParameters(BaseModel):
    """What every run has. Read with :func:`ovparts_lib.runs.reading.validate_parameters` for readable errors.

    Attributes:
        reuse: whether a complete run stands for itself, or is redone because it collects what others have left since.
    """

    reuse: ClassVar[bool] = True
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    notebook: Text = Field(description="the notebook that this run executes, without .ipynb")
    setting: Name = Field(description="first folder level below outputs, e.g. zero_shot")
    run: Name = Field(description="second folder level below outputs: the name of this run")
    outputs: Text = free("outputs", description="folder that holds all runs, relative to the project root")
    seed: Whole = Field(0, ge=0, lt=2**32, description="seed of every random choice")
    device: Device = free("auto", description="auto takes the first CUDA device if there is one, else the CPU")

    def rules(self) -> list[str]:
        """Rules that concern several fields: one line for each that is broken."""
        return []

    @model_validator(mode="after")
    def _check_rules(self) -> RunParameters:
        broken = self.rules()
        if broken:
            raise ValueError("\n".join(broken))
        return self

    @property
    def folder(self) -> Path:
        """The run folder, ``outputs/<setting>/<run>``, as an absolute path."""
        return resolve_path(self.outputs) / self.setting / self.run

    @classmethod
    def free_keys(cls) -> frozenset[str]:
        """Keys that do not change results: those declared with ``free``, and the names that say where a run lies."""
        marked = {
            key
            for key, field in cls.model_fields.items()
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("changes_results") is False
        }
        return frozenset(marked | {"setting", "run"})


class StartHereParameters(RunParameters):
    """00_start_here: what is where, which device, a first look at the miniature."""

    reuse = False
    notebook: Literal["00_start_here"] = "00_start_here"
    data_root: Text = Field(MINIATURE_ROOT, description="where the miniature is rendered; made if it is not there")
    samples: Whole = Field(8, ge=1, le=64, description="pictures shown")


class MiniatureParameters(RunParameters):
    """01_miniature: render the miniature world and train its CLIP."""

    notebook: Literal["01_miniature"] = "01_miniature"
    data_root: Text = Field(MINIATURE_ROOT, description="where the rendered data set is written")
    train_images: Whole = Field(1000, ge=1, description="training images to render")
    val_images: Whole = Field(200, ge=1, description="validation images to render")
    render_seed: Whole = Field(0, ge=0, description="seed of the renderer")
    samples: Whole = Field(8, ge=1, le=64, description="pictures shown")
    clip_weights: Text = Field(MINICLIP, description="where MiniClip is written")
    clip_pictures: Whole = Field(8000, ge=2, description="pairs of picture and captions that MiniClip learns from")
    clip_test_pictures: Whole = Field(600, ge=1, description="held-out close-ups of parts that it is tested on")
    clip_iterations: Whole = Field(1000, ge=1, description="training steps of MiniClip")
    clip_batch_size: Whole = Field(64, ge=2, description="pairs of picture and caption in a step")
    clip_learning_rate: Number = Field(1e-3, gt=0, description="peak learning rate of MiniClip")


class DataParameters(RunParameters):
    """10_data_pascal_part_116: verify the data set, look at samples and class frequencies."""

    notebook: Literal["10_data_pascal_part_116"] = "10_data_pascal_part_116"
    data_root: Text = Field(MINIATURE_ROOT, description="folder of Pascal-Part-116 as released")
    splits: Annotated[list[PascalSplit], Listed, Field(min_length=1)] = Field(
        ["train", "val"], description="splits to count and show"
    )
    samples: Whole = Field(8, ge=1, le=64, description="pictures shown per split")


class ClipsegParameters(RunParameters):
    """20_clipseg: train CLIPSeg or load a checkpoint, then score and inspect it."""

    notebook: Literal["20_clipseg"] = "20_clipseg"

    dataset: Literal["pascal_part_116"] = Field("pascal_part_116", description="which reader reads data_root")
    data_root: Text = Field(description="folder of the data set as released")
    train_split: PascalSplit = Field("train", description="images trained on")
    test_split: PascalSplit = Field("val_obj_condition", description="images scored on")

    model_size: Literal["released", "miniature"] = Field(description="the published layer sizes, or small ones")
    initialise_from: Text | None = Field(description="CLIPSeg file or folder that training begins from")
    clip_weights: Text | None = Field(
        description="CLIP weights, where initialise_from holds only a decoder or the decoder is to be new"
    )
    checkpoint: Text | None = Field(None, description="score this checkpoint instead of training (iterations: 0)")
    trainable: Annotated[list[Trainable], Listed] = Field(description="parameter groups that train")

    channel_order: Literal["rgb", "bgr"] = Field("rgb", description="bgr as the released training reads images")
    label_resize: Literal["centre", "floor"] = Field("centre", description="floor as the released code resizes labels")
    shortest_edge: Whole = Field(ge=1, description="training images are resized to this shorter side, pixels")
    longest_edge: Whole = Field(ge=1, description="but to no longer side than this, pixels")
    flip: Number = Field(0.5, ge=0, le=1, description="probability of a left-right flip")

    iterations: Whole = Field(ge=0, description="optimiser steps; 0 trains nothing")
    batch_size: Whole = Field(ge=1, description="images per optimiser step, over all devices")
    queries_per_step: Whole | None = Field(
        ge=1, description="parts decoded in a training step: those in the batch and random others; none for all parts"
    )
    accumulate: Whole = Field(1, ge=1, description="micro-batches that one optimiser step is split into")
    learning_rate: Number = Field(gt=0, description="AdamW learning rate at the first step")
    weight_decay: Number = Field(1e-4, ge=0, description="AdamW weight decay (0 for LayerNorm and embeddings)")
    gradient_clip: Number = Field(gt=0, description="largest global gradient norm")
    poly_power: Number = Field(0.9, ge=0, description="learning rate × (1 - step / iterations) to this power")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field("32-true", description="arithmetic")

    workers: Whole = free(2, ge=0, description="processes that load data")
    devices: Whole = Field(1, ge=1, description="devices trained on")
    log_every: Whole = free(50, ge=1, description="steps between log lines")
    evaluate_every: Whole = free(0, ge=0, description="steps between evaluations; 0 evaluates at the end only")
    checkpoint_every: Whole = free(1000, ge=1, description="steps between checkpoints")

    evaluate_before_training: Flag = Field(True, description="also score the weights that training begins from")
    evaluation_limit: Whole | None = Field(None, ge=1, description="score only the first images; none scores all")
    protocols: Protocols = Field(["recommended", "ov_parts"], description="how the confusion matrices are read")
    comparison_images: Whole = Field(6, ge=1, description="test images shown with ground truth and error")
    attention_images: Whole = Field(2, ge=0, description="test images shown with attention maps")

    def rules(self) -> list[str]:
        """Either a checkpoint or a training, from weights that exist, with options that fit together."""
        broken = []
        if self.checkpoint and self.iterations:
            broken.append("checkpoint, iterations: a checkpoint is scored as it is; set iterations to 0, or drop it")
        if not self.checkpoint and not self.iterations:
            broken.append("checkpoint, iterations: nothing to do; give a checkpoint to score, or iterations to train")
        if self.checkpoint and self.initialise_from:
            broken.append("checkpoint, initialise_from: give one of them; initialise_from is where training begins")
        if self.iterations and not self.initialise_from and not self.clip_weights:
            broken.append(
                "initialise_from, clip_weights: training begins from pretrained weights; give a CLIPSeg file or "
                "folder, or CLIP weights for a new decoder"
            )
        if self.iterations and not self.trainable:
            broken.append(f"trainable: training needs at least one group of {', '.join(TRAINABLE)}")
        if self.iterations and not self.train_split.startswith("train"):
            broken.append(f"train_split: {self.train_split} is held out for scoring; train on a train split")
        if self.test_split != "val_obj_condition":
            broken.append(
                f"test_split: {self.test_split} cannot be scored; val_obj_condition has the held-out "
                "images, one record per image and object"
            )
        if self.evaluate_every > self.iterations > 0:
            broken.append("evaluate_every: larger than iterations; 0 evaluates at the end only")
        if self.shortest_edge > self.longest_edge:
            broken.append("shortest_edge, longest_edge: the shorter side cannot be longer than the longer side")
        if self.batch_size % (self.accumulate * self.devices):
            broken.append("batch_size, accumulate, devices: batch_size must be a multiple of accumulate × devices")
        if self.precision == "16-mixed" and self.device == "cpu":
            broken.append("precision, device: 16-mixed needs a CUDA device; on a CPU use 32-true or bf16-mixed")
        if self.device.startswith("cuda:") and self.devices > 1:
            broken.append(f"device, devices: {self.device} is one device; use cuda to train on {self.devices}")
        return broken


class ResultsParameters(RunParameters):
    """30_results: all runs found, side by side with published numbers."""

    reuse = False
    notebook: Literal["30_results"] = "30_results"
    settings: Annotated[list[Name], Listed] = Field(description="settings compared; an empty list compares all")
    protocol: Literal["recommended", "ov_parts"] = Field("recommended", description="protocol of the comparison")
    published: Flag = Field(True, description="show the published numbers of the same setting beside ours")


class OwnImageParameters(RunParameters):
    """31_own_image: own photographs and own words, no annotation."""

    reuse = False
    notebook: Literal["31_own_image"] = "31_own_image"
    images: Annotated[list[Text], Listed, Field(min_length=1)] = Field(description="photographs")
    words: Words = Field(description="what to look for: [head, tail] or {dog: [head, tail]}")
    model: Text = Field(description="folder of a finished run, or a checkpoint file or folder")
    clip_weights: Text | None = Field(None, description="CLIP weights where the checkpoint holds only a decoder")
    background: Flag = Field(True, description="also offer 'none of these words'")
    attention: Flag = Field(True, description="draw attention maps")


MODELS: tuple[type[RunParameters], ...] = (
    StartHereParameters,
    MiniatureParameters,
    DataParameters,
    ClipsegParameters,
    ResultsParameters,
    OwnImageParameters,
)


def notebook_of(model: type[RunParameters]) -> str:
    """``ClipsegParameters`` -> ``"20_clipseg"``."""
    return model.model_fields["notebook"].default


def parameter_model(notebook: Any) -> type[RunParameters]:
    """The parameters model of a notebook.

    Raises:
        KeyError: there is no such notebook.
    """
    return {notebook_of(model): model for model in MODELS}[notebook]
