"""The rules of OVSeg's section 3.4, which other systems that classify mask proposals share."""

from ovparts_lib.systems.ensemble import clip_classes, fuse_masks, geometric_ensemble, proposal_classes

__all__ = ["clip_classes", "fuse_masks", "geometric_ensemble", "proposal_classes"]
