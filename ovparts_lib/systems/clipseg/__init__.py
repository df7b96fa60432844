"""CLIPSeg."""
