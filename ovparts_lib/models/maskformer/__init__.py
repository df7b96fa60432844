"""Blocks of MaskFormer: mask proposals by a transformer that asks the image with learned queries.

Source: Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS 2021.
"""
