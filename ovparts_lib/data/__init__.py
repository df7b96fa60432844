"""Datasets on disk: read, verified, prepared, sampled for training and evaluation."""
