"""ovparts: a research workbook for open-vocabulary part segmentation."""

import os

if os.name == "nt":
    raise ImportError("ovparts runs on Linux and macOS: it locks files as they do. On Windows, use it inside WSL")

__version__ = "0.1.0"
