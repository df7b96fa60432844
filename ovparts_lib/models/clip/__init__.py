"""CLIP's towers, text encoding, dense features and prompts, over open_clip's modules."""
