"""Readers of each dataset as released, one module per family of releases."""
