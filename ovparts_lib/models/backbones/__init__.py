"""Image backbones that systems take features from."""
