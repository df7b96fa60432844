"""The toy's weights: our own files only."""

from ovparts_lib.systems.toy.model import Toy, ToySize

from ovparts_lib.checkpoints.native import load_weights
from ovparts_lib.checkpoints.reading import load_strictly


def load_toy(path, size=None, clip_path=None, **options):
    state, metadata = load_weights(path, "toy")
    model = Toy(size or ToySize(**metadata["size"]), **options)
    return model, load_strictly(model, state, str(path), "ovparts weights")
