"""How released cost-aggregation checkpoints call our parameters, and weights of guidance backbones alone."""

import json
from pathlib import Path

from torch import nn

from ovparts_lib.checkpoints.backbones import load_resnet_into
from ovparts_lib.checkpoints.reading import CheckpointError, LoadReport, load_strictly, read_tensors
from ovparts_lib.models.backbones.guidance import DinoGuidance, ResNetGuidance

# our names and the released ones: of the aggregator by their beginnings, of which the longest that fits counts
_NAMES = json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))


def transformer_name(name: str) -> str:
    """Released name, below ``transformer.``, of a parameter of aggregator, decoder or guidance projections.

    Raises:
        KeyError: a name that is not ours.
    """
    for ours, theirs in _NAMES["aggregator"].items():
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            if ours.startswith("decoder.stages."):
                module, _, leaf = rest.partition(".")
                rest = f"{_NAMES['decoder_stage'][module]}.{leaf}"
            return theirs + rest
    stack, number, rest = name.split(".", 2)
    if stack != "layers":
        raise KeyError(name)
    return f"layers.{number}.{layer_name(rest)}"


def layer_name(name: str) -> str:
    """Released name, below one layer, of a parameter of an :class:`AggregatorLayer`.

    Raises:
        KeyError: a name that is not ours.
    """
    half, _, rest = name.partition(".")
    module, _, leaf = rest.rpartition(".")
    if half == "classes":
        return f"attention.{_NAMES['classes'].get(module, module)}.{leaf}"
    if half != "spatial":
        raise KeyError(name)
    if module == "guidance_norm":
        return f"swin_block.guidance_norm.{leaf}"
    block, _, inner = module.partition(".")
    return f"swin_block.block_{block.removeprefix('block')}.{_NAMES['spatial'].get(inner, inner)}.{leaf}"


def load_guidance_into(guidance: nn.Module, path: str | Path) -> LoadReport:
    """Load the weights of a backbone alone, as pre-training left them.

    Args:
        guidance: ResNet-101 or DINOv2, of :mod:`models.backbones.guidance`.
        path: for DINOv2 its own file (``dinov2_vits14_pretrain.pth``) or timm's of the same names; for ResNet-101 see
            :func:`load_resnet_into`.

    Raises:
        CheckpointError: unreadable, of another backbone, or tensors missing, unexpected or misshapen.
    """
    if isinstance(guidance, DinoGuidance):
        state = {name.removeprefix("backbone.").removeprefix("dinov2."): x for name, x in read_tensors(path).items()}
        if "patch_embed.proj.weight" not in state:
            raise CheckpointError(f"{path} is no DINOv2 backbone; its first tensors: {list(state)[:5]}")
        return load_strictly(guidance.dinov2, state, path, "DINOv2", drop=lambda name: name == "mask_token")
    if not isinstance(guidance, ResNetGuidance):
        raise CheckpointError(f"{path} was given for a guidance backbone that has no pre-trained weights")
    return load_resnet_into(guidance, path)
