"""OVSeg."""
