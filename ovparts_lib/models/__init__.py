"""Blocks that systems are built of, named as the papers name them."""
