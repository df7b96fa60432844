"""What the notebooks call: each function does what one cell says, and gives panels that the run's output shows."""

import lazy_loader

# A module is imported when one of its functions is first used: a notebook that trains nothing opens in half the time.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
