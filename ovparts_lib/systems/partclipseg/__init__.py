"""PartCLIPSeg."""
