"""Inspection: pictures of what a system did.

Functions that draw return a :class:`Panel`: a matplotlib Figure that pyplot does not know, the table behind it, title
and caption. Functions called ``render_…`` return uint8 pictures at full size.
"""

import lazy_loader

# A module is imported when one of its functions is first used: a notebook that trains nothing opens in half the time.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
