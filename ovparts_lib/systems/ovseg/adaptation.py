"""Mask-adapted CLIP, OVSeg's sections 3.2 and 3.3: see :mod:`systems.adapted_clip`, which other adaptations share."""

from ovparts_lib.systems.adapted_clip import (
    FINE_TUNING,
    MASK_PROMPT_TUNING,
    AdaptedClip,
    contrastive_loss,
    rate_factor,
    zero_shot_accuracy,
)

__all__ = [
    "FINE_TUNING",
    "MASK_PROMPT_TUNING",
    "AdaptedClip",
    "contrastive_loss",
    "rate_factor",
    "zero_shot_accuracy",
]
