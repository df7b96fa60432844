"""The miniature: a procedural world in released folder layouts, and the small CLIP trained on it."""
