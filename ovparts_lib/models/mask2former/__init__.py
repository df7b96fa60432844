"""Blocks of Mask2Former: deformable attention between scales, and queries that attend inside the masks they predict.

Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022.
"""
