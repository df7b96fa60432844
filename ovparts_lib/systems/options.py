"""Options of every system: data, weights, training and scoring. A system adds its own in its ``options.py``."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ovparts_lib.data.registry import DATASETS
from ovparts_lib.options import RECIPES, Flag, Listed, Name, Number, Options, Protocols, Text, Whole, by_dataset, option

Dataset = Literal[tuple(DATASETS)]  # type: ignore[valid-type]
MINIATURE_WORLD = "outputs/miniature/world"
# Protocols of data sets of whole objects and stuff; all others read parts.
OBJECT_PROTOCOLS = ("recommended_objects", "detectron2", "ovseg", "sg_iou")
MINICLIP = f"{MINIATURE_WORLD}/miniclip.safetensors"


def _folder(which: str, place: str) -> Any:
    """The folder of the data set that an option names, below ``place``; None where it names none."""
    return lambda given: f"{place}/{DATASETS[given[which]].folder}" if given.get(which) in list(DATASETS) else None


def scored_on(given: Mapping[str, Any]) -> str:
    """The data set that a run with these parameters is scored on."""
    return str(given.get("test_dataset") or given.get("dataset"))


def _test_split(given: Mapping[str, Any]) -> str:
    """The first test split; after few-shot training the one without the images that were drawn, where there is one."""
    scored = scored_on(given)
    splits = DATASETS[scored].splits("evaluation") if scored in DATASETS else ("val_obj_condition",)
    few_shot = given.get("train_split") == "train_few_shot" and given.get("test_dataset") is None
    return "val_few_shot" if few_shot and "val_few_shot" in splits else splits[0]


def published_protocols(*protocols: str, partimagenet: bool = False) -> Any:
    """The recommended protocols, then those of a paper; the latter on PartImageNet only if ``partimagenet``."""
    sound = ["recommended", "recommended_strict"]
    every = [*sound, *protocols]
    return every if partimagenet else by_dataset(every, partimagenet_seg=sound, partimagenet_ood=sound)


def protocols_by_kind(given: Mapping[str, Any]) -> list[str]:
    """The recommended protocols of the data set scored on; for whole objects also the two they are published under."""
    scored = scored_on(given)
    objects = scored in DATASETS and DATASETS[scored].kind == "semantic"
    return list(OBJECT_PROTOCOLS) if objects else ["recommended", "recommended_strict"]


class SystemOptions(Options):
    """What every system has; a system's own options are in its subclass.

    Attributes:
        system: name of the system, that of its folder.
        schedule: of the learning rate.
        kinds: of data sets that it can be trained and scored on: ``parts``, ``semantic``.
        network_input: (shortest, longest) side that the released code resizes test images and their labels to.
    """

    system: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ("parts",)
    schedule: ClassVar[Literal["poly", "cosine"]] = "poly"
    network_input: ClassVar[tuple[int, int]]

    recipe: Literal[RECIPES] = Field(  # type: ignore[valid-type]
        "published", description="published: the paper's recipe; miniature: small layers, a short training on the CPU"
    )
    dataset: Dataset = Field("pascal_part_116", description="which reader reads data_root")
    data_root: Text = option(
        _folder("dataset", "datasets"),
        _folder("dataset", MINIATURE_WORLD),
        description="folder of the data set as released",
    )
    train_split: Name = Field("train", description="records trained on")
    shots: Whole | None = Field(None, ge=1, description="train_few_shot: images per object; none: the released list")
    shots_seed: Whole = Field(0, ge=0, description="seed of that draw")
    test_dataset: Dataset | None = Field(None, description="data set scored on, where it is another (cross-dataset)")
    test_root: Text | None = option(
        _folder("test_dataset", "datasets"),
        _folder("test_dataset", MINIATURE_WORLD),
        description="its folder as released",
    )
    test_split: Name = option(_test_split, description="records scored on")

    model_size: Literal["released", "miniature"] = option(
        "released", "miniature", description="the published layer sizes, or small ones"
    )
    checkpoint: Text | None = Field(None, description="score this checkpoint instead of training")
    initialise_from: Text | None = option(None, description="checkpoint that training begins from")
    clip_weights: Text | None = option(
        None,
        lambda given: None if given.get("initialise_from") else MINICLIP,
        description="CLIP weights, where initialise_from does not hold them",
    )
    trainable: Annotated[list[str], Listed] = option([], description="parameter groups that train")

    label_resize: Literal["centre", "floor"] = option(
        "centre", description="floor: as the released code resizes labels, up to a pixel off the image"
    )
    shortest_edge: Whole | None = option(None, 96, ge=1, description="training images' shorter side; none: unchanged")
    longest_edge: Whole = option(1333, 192, ge=1, description="but no longer side than this, pixels")
    augmentation: Literal["applied", "discarded_as_released"] = option(
        "applied", description="discarded_as_released: as the released PartImageNet training, which lost it by mistake"
    )
    flip: Number = option(0.5, ge=0, le=1, description="probability of a left-right flip")

    iterations: Whole = option(20_000, 1000, ge=0, description="optimiser steps; 0 trains nothing")
    batch_size: Whole = option(8, 2, ge=1, description="images per optimiser step, over all devices")
    queries_per_step: Whole | None = option(
        None,
        20,
        ge=1,
        description="classes scored in a training step: those in the batch and random others; none for all",
    )
    accumulate: Whole = option(1, ge=1, description="micro-batches that one optimiser step is split into")
    learning_rate: Number = option(1e-4, 1e-3, gt=0, description="AdamW learning rate at the first step")
    weight_decay: Number = option(1e-4, ge=0, description="AdamW weight decay (0 for norms and embeddings)")
    gradient_clip: Number = option(0.01, 1.0, gt=0, description="largest global gradient norm")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = option("32-true", description="arithmetic")

    workers: Whole = option(8, 0, free=True, ge=0, le=512, description="processes that load data")
    devices: Whole = Field(1, ge=1, description="devices trained on")
    log_every: Whole = option(50, free=True, ge=1, description="steps between log lines")
    evaluate_every: Whole = option(
        1000, 0, free=True, ge=0, description="steps between evaluations; 0: at the end only"
    )
    checkpoint_every: Whole = option(1000, free=True, ge=1, description="steps between checkpoints")

    evaluate_before_training: Flag = option(True, description="also score the weights that training begins from")
    evaluation_limit: Whole | None = Field(None, ge=1, description="score only the first images; none scores all")
    protocols: Protocols = option(
        ["recommended"], description="how the counts are read; the first defined for a mode decides tables and figures"
    )
    intervals: Whole | None = option(1000, ge=2, description="resamplings for confidence intervals; none: left out")
    boundary: Flag = option(False, description="also score boundaries")
    oracle_rule: Literal["exact", "zero_others", "substring"] = option(
        "exact",
        description="how the known object restricts the parts. Released rules: zero_others (parts of other objects may "
        "win with 0), substring (parts of foreign objects compete, as those of an armchair for a chair)",
    )
    ground_truth: Literal["native", "double_resized"] = option(
        "native",
        description="double_resized: as released, labels resized to the network's input and back, shifted by a pixel",
    )
    empty_samples: Literal["skip", "replace_as_released"] = option(
        "skip", description="test records without parts; replace_as_released: random other records are scored twice"
    )
    comparison_images: Whole = option(6, ge=1, description="test images shown with ground truth and error")
    attention_images: Whole = option(2, ge=0, description="test images shown with attention or cost maps")

    @classmethod
    def recipe_value(cls, key: str, recipe: str, given: Mapping[str, Any]) -> Any:
        """As the recipe says; a checkpoint that is scored needs no training, and a short one no evaluations within."""
        if given.get("checkpoint") and key in ("iterations", "initialise_from", "clip_weights", "guidance_weights"):
            return 0 if key == "iterations" else None
        value = super().recipe_value(key, recipe, given)
        steps = given.get("iterations")
        if key == "evaluate_every" and isinstance(steps, int) and value > steps:
            return 0
        return value

    @property
    def scored_dataset(self) -> str:
        """The data set scored on."""
        return self.test_dataset or self.dataset

    @property
    def scored_root(self) -> str:
        """Folder of the data set scored on."""
        return self.test_root or self.data_root

    def chosen(self, *names: str) -> dict[str, Any]:
        """The values of some options, by name."""
        return {name: getattr(self, name) for name in names}

    @property
    def scores_before(self) -> bool:
        """Whether the weights that training begins from are scored."""
        return bool(self.iterations) and self.evaluate_before_training

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments that the system is built with: the options whose names its model's arguments have.

        None leaves an argument at the model's own default. A system adds what it calls otherwise.
        """
        from ovparts_lib.systems.registry import SYSTEMS  # which is made of these options

        arguments = SYSTEMS[self.system].model_arguments
        named = self.chosen(*type(self).model_fields) | {"training_queries": self.queries_per_step}
        return {name: value for name, value in named.items() if name in arguments and value is not None}

    def sized(self, size: Any) -> Any:
        """The system's hyper-parameters with what the parameters of the run change in them."""
        return size

    def weight_paths(self) -> dict[str, str | None]:
        """Files that the system's loader takes beside the checkpoint and CLIP, by name of its argument."""
        return {}

    def loading_options(self) -> dict[str, Any]:
        """What else the system's loader takes, for checkpoints that training begins from."""
        return {}

    def adaptation_options(self) -> dict[str, Any]:
        """Arguments of the system's ``fine_tuning.adapt_clip``, which adapts its CLIP to crops; none: it is left."""
        return {}

    def schedule_options(self) -> dict[str, Any]:
        """What the system's schedule takes beside the iterations: ``power``, ``warmup``."""
        return {}

    def transform_options(self, size: Any, ignore_label: int) -> dict[str, Any]:
        """The system's own steps of the training transform.

        Args:
            size: the system's hyper-parameters.
            ignore_label: of the training vocabulary.
        """
        return {}

    def rules(self) -> list[str]:
        """Either a checkpoint or a training, from weights that exist, with options that fit together."""
        broken = self._data_rules()
        if self.checkpoint and self.iterations:
            broken.append("checkpoint, iterations: a checkpoint is scored as it is; set iterations to 0, or drop it")
        if not self.checkpoint and not self.iterations:
            broken.append("checkpoint, iterations: nothing to do; give a checkpoint to score, or iterations to train")
        if self.checkpoint and self.initialise_from:
            broken.append("checkpoint, initialise_from: give one of them; initialise_from is where training begins")
        if self.iterations and not self.initialise_from and not self.clip_weights:
            broken.append(
                "initialise_from, clip_weights: training begins from pretrained weights; give a checkpoint of the "
                "system, or CLIP weights for one that is new but for them"
            )
        if self.iterations and not self.trainable:
            broken.append("trainable: training needs at least one group of parameters")
        if self.evaluate_every > self.iterations > 0:
            broken.append("evaluate_every: larger than iterations; 0 evaluates at the end only")
        edges = self.shortest_edge if isinstance(self.shortest_edge, list) else [self.shortest_edge or 1]
        if min(edges) > self.longest_edge:
            broken.append("shortest_edge, longest_edge: the shorter side cannot be longer than the longer side")
        if self.batch_size % (self.accumulate * self.devices):
            broken.append("batch_size, accumulate, devices: batch_size must be a multiple of accumulate × devices")
        if self.precision == "16-mixed" and self.device == "cpu":
            broken.append("precision, device: 16-mixed needs a CUDA device; on a CPU use 32-true or bf16-mixed")
        if self.device.startswith("cuda:") and self.devices > 1:
            broken.append(f"device, devices: {self.device} is one device; use cuda to train on {self.devices}")
        return broken

    def _data_rules(self) -> list[str]:
        broken = []
        if self.test_root is not None and self.test_dataset is None:
            broken.append("test_root, test_dataset: test_root is the folder of test_dataset; give that too, or neither")
        if self.shots is not None and not self.train_split.endswith("few_shot"):
            broken.append(f"shots, train_split: shots are drawn for train_few_shot; {self.train_split} takes all")
        for key in ("dataset", "test_dataset"):
            name = getattr(self, key)
            if name is not None and DATASETS[name].kind not in (*self.kinds, "own"):
                broken.append(f"{key}: {name} has labels of kind {DATASETS[name].kind}, not {' or '.join(self.kinds)}")
        train = DATASETS[self.dataset].splits("training")
        test = DATASETS[self.scored_dataset].splits("evaluation")
        if self.iterations and self.train_split not in train:
            held_out = self.train_split.startswith("val")
            why = "is held out for scoring" if held_out else f"is no split of {self.dataset}"
            broken.append(f"train_split: {self.train_split} {why}; train on one of {', '.join(train)}")
        if self.iterations and self.test_split != "val_few_shot" == _test_split(self.model_dump()):
            broken.append(
                f"test_split: {self.test_split} of {self.dataset} holds training images; after few-shot training score "
                "on val_few_shot, which leaves out those it has seen"
            )
        trains, scored = (DATASETS[name].kind == "semantic" for name in (self.dataset, self.scored_dataset))
        if "own" not in (self.dataset, self.scored_dataset) and trains != scored:
            broken.append(f"dataset, test_dataset: of {self.dataset} and {self.scored_dataset} only one has parts")
        wrong = [name for name in self.protocols if (name in OBJECT_PROTOCOLS) != scored]
        if wrong and self.scored_dataset != "own":  # whose class list says what it has
            what = f"whole objects; use {', '.join(OBJECT_PROTOCOLS)}" if scored else "parts"
            broken.append(f"protocols: {', '.join(wrong)} cannot read {self.scored_dataset}, which has {what}")
        if self.ground_truth == "double_resized" and scored:
            broken.append(f"ground_truth: {self.scored_dataset} is scored on its own labels; use native")
        if self.ground_truth == "double_resized" and self.scored_dataset.startswith("partimagenet"):
            broken.append("ground_truth: the released evaluators score PartImageNet on its own labels; use native")
        if self.test_split not in test:
            broken.append(
                f"test_split: {self.test_split} cannot be scored; {', '.join(test)} of {self.scored_dataset} can: "
                "held-out images, one record per image and object"
            )
        return broken
