"""Numbers from names: the deterministic weights and pictures all golden recordings were made with.

The reference implementations cannot be run here, and their weights cannot be shipped. So every floating tensor of a
released state dict was set to a pseudo-random value that depends on nothing but its name and shape, the reference was
run, and its outputs were stored. Whoever rebuilds the same values from the same names must get the same outputs.
"""

import math
import zlib

import numpy as np


def fill(key, shape, floating=True):
    """Value of the tensor that a released checkpoint calls ``key``.

    Standard normal noise from a generator seeded by the name's CRC-32, then by kind of tensor:
    matrices and kernels are divided by the root of their fan-in; vectors and scalars are 0.1 times the noise, plus one
    for anything called ``weight`` (a norm's scale); a batch norm's variance is the exponential of 0.1 times the noise;
    ``logit_scale`` is log(1 / 0.07). Integer tensors are zero.
    """
    if not floating:
        return np.zeros(shape, dtype=np.int64)
    kind = key.split(".")[-1]
    if kind == "logit_scale":
        return np.full(shape, -math.log(0.07), dtype=np.float32)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode("utf-8"))))
    noise = np.asarray(generator.standard_normal(tuple(shape), dtype=np.float32), dtype=np.float32)
    if kind == "running_var":
        return np.exp(noise * 0.1).astype(np.float32)
    if len(shape) >= 2:
        fan_in = math.prod(shape[1:])
        return (noise / math.sqrt(fan_in)).astype(np.float32)
    offset = 1.0 if kind == "weight" else 0.0
    return (offset + noise * 0.1).astype(np.float32)


def image(height, width, seed=0):
    """A picture, uint8 (height, width, 3): 8x8 random colours blended bilinearly over the area, and 10 % fine noise."""
    generator = np.random.Generator(np.random.PCG64(seed))
    corners = generator.random((8, 8, 3))
    noise = generator.random((height, width, 3))

    def places(length):
        position = np.linspace(0, 7, length)
        left = np.minimum(position.astype(int), 6)
        return left, position - left

    (top, down), (left, right) = places(height), places(width)
    down, right = down[:, None, None], right[None, :, None]
    above = corners[top][:, left] * (1 - right) + corners[top][:, left + 1] * right
    below = corners[top + 1][:, left] * (1 - right) + corners[top + 1][:, left + 1] * right
    blended = above * (1 - down) + below * down
    return np.clip((0.9 * blended + 0.1 * noise) * 255, 0, 255).astype(np.uint8)
