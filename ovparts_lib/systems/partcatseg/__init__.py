"""PartCATSeg."""
