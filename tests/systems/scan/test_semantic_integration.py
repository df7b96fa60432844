"""SIM against the reference's numbers, and against independent implementations."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ovparts_lib.models.clip.towers import MINIATURE
from ovparts_lib.systems.scan.semantic_integration import FrequencyModule, SemanticIntegration, frequency_filter
from ovparts_lib.systems.scan.sizes import ScanSize
from tests.golden.fill import fill

GOLDEN = Path(__file__).parents[2] / "golden" / "scan"
SIZE = ScanSize(
    replace(MINIATURE, vision_width=12, embed_dim=16),
    heads=4,
    hidden=24,
    context_blocks=(1, 2),
    sigmas=(3, 2),
    fusion_layers=2,
    shift_blocks=(1,),
)


def test_frequency_module_is_the_recorded_one():
    golden = np.load(GOLDEN / "golden_lfm.npz")
    module = FrequencyModule(24)
    module.load_state_dict(
        {name: torch.from_numpy(fill(f"LFM.{name}", tensor.shape)) for name, tensor in module.state_dict().items()}
    )
    generator = np.random.Generator(np.random.PCG64(8))
    maps, weights = (torch.from_numpy(generator.standard_normal((2, 24, 14, 14), np.float32)) for _ in range(2))
    output = module(maps.requires_grad_(), 7)
    (output * weights).sum().backward()
    found = {"output": output.detach(), "grad_input": maps.grad}
    found |= {f"gradnorm_conv{number}_weight": getattr(module, f"conv{number}").weight.grad.norm() for number in (1, 2)}
    assert set(found) == set(golden.files)
    for name, values in found.items():
        atol = 1e-4 * np.abs(golden[name]).max()
        np.testing.assert_allclose(values, golden[name], rtol=0, atol=atol, err_msg=name)


def test_filter_removes_the_highest_frequency_and_keeps_the_mean():
    factors = frequency_filter(16, 16, 7)
    assert factors[8, 8] == 0
    assert factors.argmax() == 0
    assert [round(float(frequency_filter(16, 16, sigma)[0, 0]), 4) for sigma in (9, 7, 3)] == [0.5462, 0.7291, 0.9992]
    assert frequency_filter(5, 7, 3)[2, 3] == 0


def test_encoder_is_a_standard_transformer_on_sequences_of_one_token():
    torch.manual_seed(0)
    module = SemanticIntegration(replace(SIZE, dropout=0.0))
    layer = nn.TransformerEncoderLayer(16, 4, 24, 0.0, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    theirs.layers.load_state_dict(module.encoder.state_dict())
    tokens = torch.randn(2, 5, 16)
    ours = tokens
    for ours_layer in module.encoder:
        ours = ours_layer(ours)
    torch.testing.assert_close(ours, theirs(tokens.view(10, 1, 16)).view(2, 5, 16))


def test_queries_do_not_see_each_other_and_images_do_not_mix():
    torch.manual_seed(0)
    module = SemanticIntegration(SIZE).eval()
    patches = [torch.randn(2, 9, 12) for _ in range(2)]
    memory = module.memory(patches, 3)
    assert memory.shape == (2, 18, 16)
    queries, image = torch.randn(2, 5, 16), torch.randn(2, 16)
    together = module(queries, memory, image)
    torch.testing.assert_close(module(queries[1:, 3:4], memory[1:], image[1:]), together[1:, 3:4])
    torch.testing.assert_close(module(queries, memory, 7 * image), together)  # its direction alone counts


def test_dropout_acts_in_training_and_keeps_the_mean_of_the_attention():
    torch.manual_seed(0)
    module = SemanticIntegration(replace(SIZE, context_blocks=(1,), sigmas=(3,), fusion_layers=1, dropout=0.5))
    layer = module.encoder[0]
    tokens = torch.randn(3, 16)
    assert not torch.equal(layer(tokens), layer(tokens))
    torch.testing.assert_close(layer.eval()(tokens), layer(tokens))
    assert module.class_token_weight.item() == pytest.approx(0.1)
