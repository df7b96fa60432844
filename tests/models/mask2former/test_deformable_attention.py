"""Deformable attention against the reference's numbers, and against the rule of its kernel."""

import math
from pathlib import Path

import numpy as np
import torch

from ovparts_lib.models.mask2former.deformable_attention import DeformableAttention, reference_points
from tests.golden.fill import fill

GOLDEN = Path(__file__).parents[2] / "golden" / "scan"
SHAPES = [(3, 4), (6, 7), (11, 13)]


def test_output_and_gradients_are_the_recorded_ones():
    golden = np.load(GOLDEN / "golden_msdeform.npz")
    attention = DeformableAttention(64, 4, 3, 4)
    filled = {name: fill(f"unit.attn.{name}", tensor.shape) for name, tensor in attention.state_dict().items()}
    attention.load_state_dict({name: torch.from_numpy(values) for name, values in filled.items()})
    generator = np.random.Generator(np.random.PCG64(3))
    shape = (2, sum(height * width for height, width in SHAPES), 64)
    draws = [torch.from_numpy(generator.standard_normal(shape, dtype=np.float32)) for _ in range(3)]
    query, memory = draws[0].requires_grad_(), draws[1].requires_grad_()
    reference = reference_points(SHAPES)
    np.testing.assert_allclose(
        reference[None, :, None].expand(2, -1, 3, -1), golden["reference_points"], rtol=0, atol=1e-6
    )
    output = attention(query, reference, memory, SHAPES)
    (output * draws[2]).sum().backward()
    found = {"output": output, "grad_query": query.grad, "grad_value": memory.grad}
    found |= {f"gradnorm_{name.replace('.', '_')}": p.grad.norm() for name, p in attention.named_parameters()}
    assert set(found) | {"reference_points"} == set(golden.files)
    for name, tensor in found.items():
        expected = golden[name]
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=0, atol=atol, err_msg=name)


def bilinear(value, x, y):
    """The kernel's rule: value (h, w, d) at pixel coordinates, corners outside count 0."""
    height, width, _ = value.shape
    total = torch.zeros(value.shape[-1], dtype=value.dtype)
    left, top = math.floor(x), math.floor(y)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < height and 0 <= column < width:
            total += value[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return total


def test_sampling_follows_the_kernels_rule_beyond_the_border_too():
    torch.manual_seed(0)
    heads, points, shapes = 2, 3, [(2, 3), (4, 5)]
    attention = DeformableAttention(8, heads, 2, points).double()
    torch.nn.init.normal_(attention.sampling_offsets.weight)  # some points lie far outside
    torch.nn.init.normal_(attention.attention_weights.weight)
    memory, query = torch.randn(1, 26, 8).double(), torch.randn(1, 4, 8).double()
    reference = torch.rand(4, 2).double()
    output = attention(query, reference, memory, shapes)
    offsets = attention.sampling_offsets(query)[0].view(4, heads, 2, points, 2)
    weights = attention.attention_weights(query)[0].view(4, heads, 2 * points).softmax(-1).view(4, heads, 2, points)
    values = [part.view(*shape, heads, 4) for part, shape in zip(
        attention.value_proj(memory)[0].split([6, 20]), shapes, strict=True
    )]  # fmt: skip
    expected = torch.zeros(4, heads, 4).double()
    for number in range(4):
        for head in range(heads):
            for level, (height, width) in enumerate(shapes):
                for point in range(points):
                    dx, dy = offsets[number, head, level, point].tolist()
                    x, y = reference[number, 0] * width + dx - 0.5, reference[number, 1] * height + dy - 0.5
                    sample = bilinear(values[level][:, :, head], float(x), float(y))
                    expected[number, head] += weights[number, head, level, point] * sample
    torch.testing.assert_close(output[0], attention.output_proj(expected.flatten(1)))


def test_at_the_start_heads_look_in_different_directions_and_weigh_all_points_alike():
    attention = DeformableAttention(16, 8, 3, 4)
    bias = attention.sampling_offsets.bias.view(8, 3, 4, 2)
    torch.testing.assert_close(bias[0, :, :, 0], torch.arange(1.0, 5).expand(3, -1))  # head 0 to the right
    torch.testing.assert_close(bias[2, :, :, 1], torch.arange(1.0, 5).expand(3, -1))  # head 2 down
    torch.testing.assert_close(bias.abs().amax(-1), torch.arange(1.0, 5).expand(8, 3, -1))
    assert not attention.sampling_offsets.weight.any() and not attention.attention_weights.weight.any()
