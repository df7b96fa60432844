"""The parameters of the notebooks that train and score a system."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from ovparts_lib.runs.base_parameters import RunParameters
from ovparts_lib.runs.values import Flag, Listed, Name, Number, Protocols, Text, Whole, free

Dataset = Literal["pascal_part_116", "ade20k_part_234", "partimagenet_seg", "partimagenet_ood"]
CatsegGroup = Literal["guidance", "aggregator", "clip_attention", "clip_visual", "background_text"]
ClipsegGroup = Literal["visual_adapter", "language", "film", "decoder", "background_query"]
# What can be trained and scored on, without opening a data set; a test compares this with the readers.
TRAIN_SPLITS = dict.fromkeys(get_args(Dataset), ("train", "train_obj_condition", "train_few_shot"))
TEST_SPLITS = dict.fromkeys(get_args(Dataset), ("val_obj_condition",)) | {
    "ade20k_part_234": ("val_obj_condition", "val_few_shot")
}
# Layers of PartCLIPSeg's decoder, without building a model; a test compares this with the sizes.
DECODER_LAYERS = {"released": 3, "miniature": 1}


class SystemParameters(RunParameters):
    """What every notebook that trains or scores a system has; a system's own keys are in its subclass.

    Attributes:
        system: name of the system, as in :mod:`ovparts_lib.systems.registry`.
        schedule: of the learning rate.
        network_input: (shortest, longest) side that the released code resizes test images and their labels to.
    """

    system: ClassVar[str]
    schedule: ClassVar[Literal["poly", "cosine"]] = "poly"
    network_input: ClassVar[tuple[int, int]]

    dataset: Dataset = Field("pascal_part_116", description="which reader reads data_root")
    data_root: Text = Field(description="folder of the data set as released")
    train_split: Name = Field("train", description="records trained on")
    shots: Whole | None = Field(
        None, ge=1, description="train_few_shot: images drawn for each object; none takes the released list"
    )
    shots_seed: Whole = Field(0, ge=0, description="seed of that draw")
    test_dataset: Dataset | None = Field(None, description="data set scored on, where it is another (cross-dataset)")
    test_root: Text | None = Field(None, description="its folder as released")
    test_split: Name = Field("val_obj_condition", description="records scored on")

    model_size: Literal["released", "miniature"] = Field(description="the published layer sizes, or small ones")
    initialise_from: Text | None = Field(description="checkpoint that training begins from")
    clip_weights: Text | None = Field(description="CLIP weights, where initialise_from does not hold them")
    checkpoint: Text | None = Field(None, description="score this checkpoint instead of training (iterations: 0)")
    trainable: Annotated[list[str], Listed] = Field(description="parameter groups that train")

    label_resize: Literal["centre", "floor"] = Field("centre", description="floor as the released code resizes labels")
    shortest_edge: Whole | None = Field(
        ge=1, description="training images get this shorter side; none keeps their size"
    )
    longest_edge: Whole = Field(ge=1, description="but no longer side than this, pixels")
    augmentation: Literal["applied", "discarded_as_released"] = Field(
        "applied", description="discarded_as_released: as the released PartImageNet training, which lost it by mistake"
    )
    flip: Number = Field(0.5, ge=0, le=1, description="probability of a left-right flip")

    iterations: Whole = Field(ge=0, description="optimiser steps; 0 trains nothing")
    batch_size: Whole = Field(ge=1, description="images per optimiser step, over all devices")
    accumulate: Whole = Field(1, ge=1, description="micro-batches that one optimiser step is split into")
    learning_rate: Number = Field(gt=0, description="AdamW learning rate at the first step")
    weight_decay: Number = Field(1e-4, ge=0, description="AdamW weight decay (0 for norms and embeddings)")
    gradient_clip: Number = Field(gt=0, description="largest global gradient norm")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field("32-true", description="arithmetic")

    workers: Whole = free(2, ge=0, description="processes that load data")
    devices: Whole = Field(1, ge=1, description="devices trained on")
    log_every: Whole = free(50, ge=1, description="steps between log lines")
    evaluate_every: Whole = free(0, ge=0, description="steps between evaluations; 0 evaluates at the end only")
    checkpoint_every: Whole = free(1000, ge=1, description="steps between checkpoints")

    evaluate_before_training: Flag = Field(True, description="also score the weights that training begins from")
    evaluation_limit: Whole | None = Field(None, ge=1, description="score only the first images; none scores all")
    protocols: Protocols = Field(["recommended", "ov_parts"], description="how the confusion matrices are read")
    intervals: Whole | None = Field(
        1000, ge=2, description="sets of images drawn for confidence intervals; none leaves them out"
    )
    boundary: Flag = Field(False, description="also score boundaries")
    oracle_rule: Literal["exact", "zero_others", "substring"] = Field(
        "exact", description="how the known object restricts the parts; the others are released rules"
    )
    ground_truth: Literal["native", "double_resized"] = Field(
        "native", description="double_resized: the shifted labels that the released evaluators score against"
    )
    empty_samples: Literal["skip", "replace_as_released"] = Field(
        "skip", description="test records without parts; replace_as_released: scored as random other records"
    )
    comparison_images: Whole = Field(6, ge=1, description="test images shown with ground truth and error")
    attention_images: Whole = Field(2, ge=0, description="test images shown with attention maps")

    @property
    def scored_dataset(self) -> str:
        """The data set scored on."""
        return self.test_dataset or self.dataset

    @property
    def scored_root(self) -> str:
        """Folder of the data set scored on."""
        return self.test_root or self.data_root

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments that the system is built with."""
        return {}

    def sized(self, size: Any) -> Any:
        """The system's hyper-parameters with what the parameters of the run change in them."""
        return size

    def weight_paths(self) -> dict[str, str | None]:
        """Files that the system's loader takes beside the checkpoint and CLIP, by name of its argument."""
        return {}

    def loading_options(self) -> dict[str, Any]:
        """What else the system's loader takes, for checkpoints that training begins from."""
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
        if self.shortest_edge is not None and self.shortest_edge > self.longest_edge:
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
        if (self.test_dataset is None) != (self.test_root is None):
            broken.append("test_dataset, test_root: give both for cross-dataset scoring, or neither")
        if self.shots is not None and not self.train_split.endswith("few_shot"):
            broken.append(
                f"shots, train_split: shots are drawn for train_few_shot; {self.train_split} takes all images"
            )
        train, test = TRAIN_SPLITS[self.dataset], TEST_SPLITS[self.scored_dataset]
        if self.iterations and self.train_split not in train:
            held_out = self.train_split in TEST_SPLITS[self.dataset] or self.train_split == "val"
            why = "is held out for scoring" if held_out else f"is no split of {self.dataset}"
            broken.append(f"train_split: {self.train_split} {why}; train on one of {', '.join(train)}")
        few_shot = bool(self.iterations) and self.train_split == "train_few_shot" and self.test_dataset is None
        if few_shot and self.dataset == "ade20k_part_234" and self.test_split == "val_obj_condition":
            broken.append(
                "test_split: val_obj_condition of ade20k_part_234 holds training images; after few-shot training score "
                "on val_few_shot, which leaves out those it has seen"
            )
        if self.ground_truth == "double_resized" and self.scored_dataset.startswith("partimagenet"):
            broken.append("ground_truth: the released evaluators score PartImageNet on its own labels; use native")
        if self.test_split not in test:
            broken.append(
                f"test_split: {self.test_split} cannot be scored; {', '.join(test)} of {self.scored_dataset} can: "
                "held-out images, one record per image and object"
            )
        return broken


class ClipsegParameters(SystemParameters):
    """20_clipseg: train CLIPSeg or load a checkpoint, then score and inspect it."""

    system = "clipseg"
    network_input = (800, 1333)
    notebook: Literal["20_clipseg"] = "20_clipseg"

    trainable: Annotated[list[ClipsegGroup], Listed] = Field(description="parameter groups that train")
    channel_order: Literal["rgb", "bgr"] = Field("rgb", description="bgr as the released training reads images")
    queries_per_step: Whole | None = Field(
        ge=1, description="parts decoded in a training step: those in the batch and random others; none for all parts"
    )
    background_weight: Number = Field(0.05, gt=0, description="weight of the background query in the loss")
    poly_power: Number = Field(0.9, ge=0, description="learning rate × (1 - step / iterations) to this power")

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments of :class:`~ovparts_lib.systems.clipseg.model.Clipseg`."""
        return {
            "label_resize": self.label_resize,
            "training_queries": self.queries_per_step,
            "background_weight": self.background_weight,
        }

    def transform_options(self, size: Any, ignore_label: int) -> dict[str, Any]:
        """Loading ends with CLIPSeg's squashing to a square, so that workers hand over small pictures of one size."""
        return {"final_size": size.image_size, "channel_order": self.channel_order}


class CostParameters(SystemParameters):
    """What the notebooks of the systems that aggregate costs have in common."""

    schedule = "cosine"
    network_input = (640, 768)

    crop: Whole = Field(ge=1, description="side of the random square that training images are cut to, pixels")
    photometric: Flag = Field(description="colour jitter of training images")
    guidance_weights: Text | None = Field(
        None, description="weights of the guidance backbone, where initialise_from does not hold them"
    )
    queries_per_step: Whole | None = Field(
        ge=1, description="parts scored in a training step: those in the batch and random others; none for all parts"
    )
    guidance_rate: Number = Field(gt=0, description="learning rate of the guidance backbone, as a factor")
    clip_rate: Number = Field(0.01, gt=0, description="learning rate of CLIP's trainable parts, as a factor")
    test_shortest_edge: Whole | None = Field(
        ge=1, description="test images get this shorter side first; none keeps their size, as released on PartImageNet"
    )
    padding: Literal["cut", "stretched"] = Field(
        "cut", description="stretched: score maps are stretched over padding as in the released code"
    )
    checkpoint_aggregator: Flag = free(False, description="compute activations twice in training to save memory")

    def sized(self, size: Any) -> Any:
        """The size with test images resized as the parameters say."""
        return replace(size, inputs=replace(size.inputs, shortest_edge=self.test_shortest_edge))

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments that both systems take."""
        return {
            "training_queries": self.queries_per_step,
            "padding": self.padding,
            "checkpoint_aggregator": self.checkpoint_aggregator,
            "lr_multipliers": {
                "guidance": self.guidance_rate,
                "clip_attention": self.clip_rate,
                "clip_visual": self.clip_rate,
            },
        }

    def transform_options(self, size: Any, ignore_label: int) -> dict[str, Any]:
        """A random square crop, colours changed, padded where the image is too small."""
        return {
            "crop": self.crop,
            "photometric": self.photometric,
            "pad_size": self.crop,
            "ignore_label": ignore_label,
        }

    def weight_paths(self) -> dict[str, str | None]:
        """Files that the system's loader takes beside the checkpoint."""
        return {"guidance_path": self.guidance_weights}


class CatsegParameters(CostParameters):
    """21_catseg: train CATSeg or load a checkpoint, then score and inspect it."""

    system = "catseg"
    notebook: Literal["21_catseg"] = "21_catseg"

    model_size: Literal["released", "released_dinov2", "released_unguided", "miniature", "miniature_unguided"] = Field(
        description="OV-PARTS' model (ResNet-101), part-catseg's on Pascal (DINOv2), or small layers; unguided: "
        "without image guidance"
    )
    trainable: Annotated[list[CatsegGroup], Listed] = Field(description="parameter groups that train")
    sliding_window: Flag = Field(False, description="score overlapping crops and the whole image")
    pooling: Whole | None = Field(
        None,
        ge=1,
        description="positions averaged along each axis before class attention, in scoring; none: 1 with "
        "sliding_window, as CAT-Seg was evaluated, and otherwise as in training",
    )

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments of :class:`~ovparts_lib.systems.catseg.model.Catseg`."""
        return super().model_options() | {"sliding_window": self.sliding_window, "pooling": self.pooling}


class PartcatsegParameters(CostParameters):
    """24_partcatseg: train PartCATSeg or load a checkpoint, then score and inspect it."""

    system = "partcatseg"
    notebook: Literal["24_partcatseg"] = "24_partcatseg"

    model_size: Literal["released", "released_unguided", "miniature", "miniature_unguided"] = Field(
        description="the published layer sizes, or small ones; unguided: without image guidance"
    )
    trainable: Annotated[list[CatsegGroup], Listed] = Field(description="parameter groups that train")
    compositional_weight: Number = Field(1.0, ge=0, description="weight of the compositional loss; 0 switches it off")
    divergence: Literal["jensen_shannon", "symmetric_kl"] = Field(
        "jensen_shannon", description="how the compositional loss compares distributions"
    )
    second_stage: Literal["pretrained", "random"] = Field(
        "pretrained",
        description="what the second stage begins from: CAT-Seg's layers, or random ones as in the released order",
    )

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments of :class:`~ovparts_lib.systems.partcatseg.model.PartCatseg`."""
        return super().model_options() | {
            "compositional_weight": self.compositional_weight,
            "divergence": self.divergence,
        }

    def loading_options(self) -> dict[str, Any]:
        """The order in which the second stage is filled."""
        return {"second_stage": self.second_stage}


class PartclipsegParameters(SystemParameters):
    """23_partclipseg: train PartCLIPSeg or load a checkpoint, then score and inspect it."""

    system = "partclipseg"
    notebook: Literal["23_partclipseg"] = "23_partclipseg"
    network_input = (800, 1333)

    trainable: Annotated[list[ClipsegGroup], Listed] = Field(description="parameter groups that train")
    channel_order: Literal["rgb", "bgr"] = Field("rgb", description="bgr as the released training reads images")
    queries_per_step: Whole | None = Field(
        ge=1, description="parts decoded in a training step: those in the batch and random others; none for all parts"
    )
    background_weight: Number = Field(0.05, gt=0, description="weight of the background's terms in the loss")
    poly_power: Number = Field(0.9, ge=0, description="learning rate × (1 - step / iterations) to this power")
    object_text: Literal["object", "released"] | None = Field(
        None,
        description="text of a pair's object slot; none: as the weights were trained, object for new ones",
    )
    object_weight: Number = Field(1.0, ge=0, description="weight of the objects' own logits in the loss")
    part_weight: Number = Field(1.0, ge=0, description="weight of the generic parts' own logits in the loss")
    separation_weight: Number = Field(0.1, ge=0, description="weight of the overlap of parts in attention")
    enhancement_weight: Number = Field(0.01, ge=0, description="weight of the lack of strength in attention")
    attention_threshold: Number = Field(0.3, ge=0, le=1, description="attention above which a part claims a patch")
    attention_layer: Whole = Field(
        -1, description="the decoder's layer whose attention is controlled and measured; -1: the last, as published"
    )
    attention_rule: Literal["corrected", "released"] = Field(
        "corrected", description="released: with the slips of the released attention losses"
    )
    loss_mean: Literal["image", "batch"] = Field(
        "image",
        description="image: mean of each image's loss, as published on eight devices; batch: over all pixels",
    )
    checkpoint_decoder: Flag = free(False, description="compute activations twice in training to save memory")
    query_chunk: Whole | None = free(
        None,
        ge=1,
        description="(image, query) pairs decoded at once, to bound memory; none: by device",
    )
    statistics_images: Whole = Field(
        40, ge=0, description="test images in which overlap and strength of parts in attention are measured"
    )
    attention_beside: Text | None = Field(
        None, description="folder of another finished run, whose attention is shown beside this one's"
    )

    def model_options(self) -> dict[str, Any]:
        """Keyword arguments of :class:`~ovparts_lib.systems.partclipseg.model.Partclipseg`."""
        named = {} if self.object_text is None else {"object_text": self.object_text}
        return named | {
            "label_resize": self.label_resize,
            "training_queries": self.queries_per_step,
            "background_weight": self.background_weight,
            "object_weight": self.object_weight,
            "part_weight": self.part_weight,
            "separation_weight": self.separation_weight,
            "enhancement_weight": self.enhancement_weight,
            "attention_threshold": self.attention_threshold,
            "attention_rule": self.attention_rule,
            "attention_layer": self.attention_layer,
            "loss_mean": self.loss_mean,
            "checkpoint_decoder": self.checkpoint_decoder,
            "query_chunk": self.query_chunk,
        }

    def rules(self) -> list[str]:
        """Also, the decoder has the layer whose attention is controlled."""
        broken, layers = super().rules(), DECODER_LAYERS[self.model_size]
        if not -layers <= self.attention_layer < layers:
            broken.append(
                f"attention_layer, model_size: the {self.model_size} decoder has the layers 0 to {layers - 1}, which "
                f"are also -{layers} to -1; there is no layer {self.attention_layer}"
            )
        return broken

    def transform_options(self, size: Any, ignore_label: int) -> dict[str, Any]:
        """As CLIPSeg: the image is squashed to a square while loading."""
        return {"final_size": size.image_size, "channel_order": self.channel_order}
