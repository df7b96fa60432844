"""Fine-tuning of CLIP and mask prompt tuning against one recorded step of the released training code."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from ovparts_lib.models.clip.pair_crops import FILL, clip_pixels, mask_by_colour, pair_transform
from ovparts_lib.models.clip.text import tokenize
from ovparts_lib.models.clip.token_masks import patch_masks
from ovparts_lib.models.clip.towers import VIT_B_16, build_clip
from ovparts_lib.systems.adapted_clip import FINE_TUNING, MASK_PROMPT_TUNING, AdaptedClip
from tests.golden.fill import fill, image
from tests.golden.released_ovseg import arrays


@pytest.fixture(scope="module")
def adapted():
    clip = build_clip(VIT_B_16)
    for name, parameter in clip.named_parameters():
        parameter.data = torch.from_numpy(fill(name, tuple(parameter.shape)))
    model = AdaptedClip(clip, VIT_B_16)
    model.mask_prompt.data = torch.from_numpy(fill("visual.mask_embedding", tuple(model.mask_prompt.shape)))
    return model


def recorded_crops(facts):
    """The recorded crops after the validation transform: uint8 (6, 3, 224, 224)."""
    crops, transform = [], pair_transform(224, train=False)
    for item in facts["inputs"]:
        pixels = image(*(int(n) for n in item["image"].removeprefix("fill.image(").removesuffix(")").split(",")))
        cx, cy, rx, ry = item["ellipse_cx_cy_rx_ry"]
        y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
        pixels[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 > 1] = FILL
        crops.append(pil_to_tensor(transform(Image.fromarray(pixels))))
    return torch.stack(crops)


@pytest.mark.parametrize("kind", ["ft", "mpt"])
def test_one_step_of_adaptation(adapted, kind):
    facts, golden = arrays(f"golden_clip_{kind}_vitB")
    adapted.zero_grad()
    trained = adapted.set_trainable(FINE_TUNING if kind == "ft" else MASK_PROMPT_TUNING)
    assert len(trained) == facts["n_trainable_tensors"]
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == facts["trainable_parameters"]
    crops = recorded_crops(facts)
    pixels = torch.stack([clip_pixels(crop) for crop in crops])
    np.testing.assert_allclose(pixels[:, :, ::16, ::16], golden["pixels"], atol=1e-5)
    masks = None
    if kind == "mpt":
        masks = torch.stack([mask_by_colour(crop) for crop in crops])
        np.testing.assert_array_equal(np.packbits(masks.numpy(), axis=-1), golden["mask"])
        np.testing.assert_array_equal(np.packbits(patch_masks(masks, 16).numpy(), axis=-1), golden["patch_mask"])
    tokens = tokenize(facts["captions"]).numpy()[:, :16]
    np.testing.assert_array_equal(np.pad(tokens, ((0, 0), (0, 16 - tokens.shape[1]))), golden["tokens"])
    texts = adapted.embed_captions(facts["captions"])
    np.testing.assert_allclose(texts.numpy(), golden["text_features"], atol=1e-5)

    loss = adapted.loss({"pixels": pixels, "masks": masks, "captions": facts["captions"]})["loss_contrastive"]
    assert loss.item() == pytest.approx(facts["loss"], rel=1e-4)
    loss.backward()
    norms = {
        {"mask_prompt": "visual.mask_embedding"}.get(name, name.removeprefix("clip.")): parameter.grad.norm().item()
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad
    }
    for name, value in facts["grad_l2_norms"].items():
        assert norms[name] == pytest.approx(value, rel=1e-3), name
    assert np.linalg.norm(list(norms.values())) == pytest.approx(facts["grad_l2_norm_all"], rel=1e-3)
    if kind == "mpt":
        gradient = adapted.mask_prompt.grad[:, ::8, ::32]
        scale = np.abs(golden["grad_mask_embedding"]).max()
        np.testing.assert_allclose(gradient, golden["grad_mask_embedding"], rtol=0, atol=1e-3 * scale)
