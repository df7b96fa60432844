"""CATSeg."""
