"""Reading and writing weights: one file per family of released checkpoints, and our own format."""
