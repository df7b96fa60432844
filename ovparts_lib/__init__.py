"""ovparts: a research workbook for open-vocabulary part segmentation."""

__version__ = "0.1.0"
