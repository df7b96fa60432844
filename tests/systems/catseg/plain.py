"""CATSeg and PartCATSeg in their plainest form: functions of a released state dict, whole volumes, concatenations.

Nothing of the package is used but its tokenizer. Every function takes the state dict's names as they are released.
"""

import torch
import torch.nn.functional as F

from ovparts_lib.models.clip.text import tokenize

PREDICTOR = "sem_seg_head.predictor."
CLIP_MEAN, CLIP_STD = (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.3231630)
MEAN, STD = (123.675, 116.280, 103.530), (58.395, 57.120, 57.375)


def below(state, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def linear(s, name, x):
    return F.linear(x, s[f"{name}.weight"], s.get(f"{name}.bias"))


def layer_norm(s, name, x, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], eps)


def conv(s, name, x, **options):
    return F.conv2d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), **options)


def resized(maps, side, align_corners=False):
    size = (side, side) if isinstance(side, int) else side
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


# --- towers -----------------------------------------------------------------------------------------------------------


def attention(q, k, v, heads, mask=0.0):
    """(b, t, c) each; mask is added to the scores."""
    b, t, c = q.shape
    q, k, v = (x.view(b, t, heads, c // heads).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(2, 3) / (c // heads) ** 0.5 + mask).softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(b, t, c)


def clip_block(s, name, x, heads, mask=0.0, value_only=False):
    weight, bias = s[f"{name}.attn.in_proj_weight"], s[f"{name}.attn.in_proj_bias"]
    q, k, v = F.linear(layer_norm(s, f"{name}.ln_1", x), weight, bias).chunk(3, dim=-1)
    x = x + linear(s, f"{name}.attn.out_proj", v if value_only else attention(q, k, v, heads, mask))
    hidden = linear(s, f"{name}.mlp.c_fc", layer_norm(s, f"{name}.ln_2", x))
    return x + linear(s, f"{name}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))


def count(s, beginning):
    return 1 + max(int(name.removeprefix(beginning).split(".")[0]) for name in s if name.startswith(beginning))


def dense_clip(state, pixels, heads):
    """(b, d, g, g)."""
    s = below(state, f"{PREDICTOR}clip_model.visual.")
    x = F.conv2d(pixels, s["conv1.weight"], stride=s["conv1.weight"].shape[-1])
    b, width, g, _ = x.shape
    x = torch.cat([s["class_embedding"].expand(b, 1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    side = round((len(s["positional_embedding"]) - 1) ** 0.5)
    grid = s["positional_embedding"][1:].T.reshape(1, width, side, side)
    grid = F.interpolate(grid, size=(g, g), mode="bicubic", align_corners=False).flatten(2)[0].T
    x = layer_norm(s, "ln_pre", x + torch.cat([s["positional_embedding"][:1], grid]))
    depth = count(s, "transformer.resblocks.")
    for n in range(depth):
        x = clip_block(s, f"transformer.resblocks.{n}", x, heads, value_only=n == depth - 1)
    return (layer_norm(s, "ln_post", x) @ s["proj"])[:, 1:].transpose(1, 2).reshape(b, -1, g, g)


def texts(state, names, templates, heads):
    """(names + 1, templates, d), normalised, the background last; the full context, padded with zeros."""
    s = below(state, f"{PREDICTOR}clip_model.")
    rows = []
    for name in names:
        tokens = torch.cat([F.pad(t, (0, 77 - t.shape[1])) for t in (tokenize([x.format(name)]) for x in templates)])
        x = s["token_embedding.weight"][tokens] + s["positional_embedding"]
        mask = torch.full((77, 77), float("-inf")).triu(1)
        for n in range(count(s, "transformer.resblocks.")):
            x = clip_block(s, f"transformer.resblocks.{n}", x, heads, mask)
        x = layer_norm(s, "ln_final", x)[torch.arange(len(x)), tokens.argmax(1)] @ s["text_projection"]
        rows.append(F.normalize(x, dim=-1))
    background = F.normalize(state[f"{PREDICTOR}non_object_embedding"], dim=-1).expand(len(templates), -1)
    return torch.stack([*rows, background])


def frozen_norm(s, name, x):
    leaves = ("weight", "bias", "running_mean", "running_var")
    w, b, mean, var = (s[f"{name}.{leaf}"].detach().view(1, -1, 1, 1) for leaf in leaves)
    scale = w / (var + 1e-5).sqrt()
    return x * scale + (b - mean * scale)


def resnet(state, pixels):
    """[res4, res3, res2]."""
    s = below(state, "backbone.")
    x = F.relu(frozen_norm(s, "stem.conv1.norm", conv(s, "stem.conv1", pixels, stride=2, padding=3)))
    x, found = F.max_pool2d(x, 3, 2, 1), []
    for stage, blocks in ((2, 3), (3, 4), (4, 23)):
        for n in range(blocks):
            name, stride = f"res{stage}.{n}", 2 if n == 0 and stage > 2 else 1
            y = F.relu(frozen_norm(s, f"{name}.conv1.norm", conv(s, f"{name}.conv1", x)))
            y = F.relu(frozen_norm(s, f"{name}.conv2.norm", conv(s, f"{name}.conv2", y, stride=stride, padding=1)))
            y = frozen_norm(s, f"{name}.conv3.norm", conv(s, f"{name}.conv3", y))
            if n == 0:
                x = frozen_norm(s, f"{name}.shortcut.norm", conv(s, f"{name}.shortcut", x, stride=stride))
            x = F.relu(x + y)
        found.insert(0, x)
    return found


def dinov2(state, pixels, grid, heads=6):
    """[res4, res3, res2] at grid, 2 grid, 4 grid."""
    s = below(state, "backbone.dinov2.")
    x = conv(s, "patch_embed.proj", pixels, stride=14)
    b, width, g, _ = x.shape
    table = s["pos_embed"]
    patches = table[:, 1:].transpose(1, 2).reshape(1, width, 37, 37)
    if g != 37:
        scale = (g + 0.1) / 37
        patches = F.interpolate(patches, scale_factor=(scale, scale), mode="bicubic", align_corners=False)
    positions = torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)
    x = torch.cat([s["cls_token"].expand(b, -1, -1), x.flatten(2).transpose(1, 2)], dim=1) + positions
    for n in range(count(s, "blocks.")):
        q, k, v = linear(s, f"blocks.{n}.attn.qkv", layer_norm(s, f"blocks.{n}.norm1", x, 1e-6)).chunk(3, dim=-1)
        x = x + s[f"blocks.{n}.ls1.gamma"] * linear(s, f"blocks.{n}.attn.proj", attention(q, k, v, heads))
        hidden = F.gelu(linear(s, f"blocks.{n}.mlp.fc1", layer_norm(s, f"blocks.{n}.norm2", x, 1e-6)))
        x = x + s[f"blocks.{n}.ls2.gamma"] * linear(s, f"blocks.{n}.mlp.fc2", hidden)
    maps = layer_norm(s, "norm", x, 1e-6)[:, 1:].transpose(1, 2).reshape(b, width, g, g)
    return [resized(maps, grid * factor) for factor in (1, 2, 4)]


# --- aggregation ------------------------------------------------------------------------------------------------------


def cosines(features, text):
    """(b, d, h, w), or (b, t, d, h, w), and (t, p, d) -> (b, p, t, h, w)."""
    text = F.normalize(text, dim=-1)
    if features.ndim == 4:
        return torch.einsum("bdhw,tpd->bpthw", F.normalize(features, dim=1), text)
    return torch.einsum("btdhw,tpd->bpthw", F.normalize(features, dim=2), text)


def embedded(s, name, cost):
    """(b, p, t, h, w) -> (b, t, c, h, w)."""
    b, p, t, h, w = cost.shape
    kernel = s[f"{name}.weight"].shape[-1]
    return conv(s, name, cost.transpose(1, 2).reshape(b * t, p, h, w), padding=kernel // 2).view(b, t, -1, h, w)


def window_ids(side, window, shift):
    """For each token of the unrolled grid its window, and its region in the rolled grid."""
    places = torch.arange(side)
    rolled = (places - shift) % side  # where a token stands after the roll
    windows = rolled // window
    regions = torch.where(rolled < side - window, 0, torch.where(rolled < side - shift, 1, 2))
    return [(x[:, None] * 100 + x).flatten() for x in (windows, regions if shift else torch.zeros_like(places))]


def swin_block(s, name, x, guidance, heads, window, shift):
    """Global attention with everything outside a token's window forbidden; x (n, h w, c), guidance likewise."""
    side = round(x.shape[1] ** 0.5)
    windows, regions = window_ids(side, window, shift)
    mask = torch.where(regions[:, None] == regions[None], 0.0, -100.0)
    mask = mask.masked_fill(windows[:, None] != windows[None], float("-inf"))
    n = layer_norm(s, f"{name}.norm1", x)
    z = torch.cat([n, guidance], dim=-1)
    q, k, v = linear(s, f"{name}.attn.q", z), linear(s, f"{name}.attn.k", z), linear(s, f"{name}.attn.v", n)
    x = x + linear(s, f"{name}.attn.proj", attention(q, k, v, heads, mask))
    hidden = F.gelu(linear(s, f"{name}.mlp.fc1", layer_norm(s, f"{name}.norm2", x)))
    return x + linear(s, f"{name}.mlp.fc2", hidden)


def class_attention(s, name, x, text_guidance, heads, kind):
    """x (t, c) at one position, text_guidance (t, c')."""
    n = layer_norm(s, f"{name}.norm1", x)
    z = torch.cat([n, text_guidance], dim=-1)
    q, k, v = (linear(s, f"{name}.attention.{x}", y) for x, y in (("q", z), ("k", z), ("v", n)))
    outputs = []
    for query, key, value in zip(*(y.chunk(heads, dim=-1) for y in (q, k, v)), strict=True):
        scores = query @ key.T / query.shape[1] ** 0.5
        if kind == "linear":
            weights = (F.elu(query) + 1) @ (F.elu(key) + 1).T
            weights = weights / (weights.sum(1, keepdim=True) + 1e-6)
        elif kind == "full":
            weights = scores.softmax(1)
        else:
            weights = scores.softmax(0) + 1e-8
            weights = weights / weights.sum(1, keepdim=True)
        outputs.append(weights @ value)
    x = x + torch.cat(outputs, dim=-1)
    return x + linear(s, f"{name}.MLP.2", F.relu(linear(s, f"{name}.MLP.0", layer_norm(s, f"{name}.norm2", x))))


def layer(s, name, x, guidance, text_guidance, heads, window, pooling, kind):
    """x (b, t, c, h, w), guidance (b, c', h, w), text_guidance (t, c'')."""
    b, t, c, h, w = x.shape
    tokens = x.flatten(3).transpose(2, 3).reshape(b * t, h * w, c)
    guide = layer_norm(s, f"{name}.swin_block.guidance_norm", guidance.flatten(2).transpose(1, 2))
    guide = guide.repeat_interleave(t, dim=0)
    for block, shift in ((1, 0), (2, window // 2)):
        tokens = swin_block(s, f"{name}.swin_block.block_{block}", tokens, guide, heads, window, shift)
    maps = tokens.transpose(1, 2).reshape(b * t, c, h, w)
    pooled = F.avg_pool2d(maps, pooling).view(b, t, c, h // pooling, w // pooling)
    mixed = torch.zeros_like(pooled)
    for i in range(b):
        for y in range(h // pooling):
            for z in range(w // pooling):
                mixed[i, :, :, y, z] = class_attention(
                    s, f"{name}.attention", pooled[i, :, :, y, z], text_guidance, heads, kind
                )
    return (maps + resized(mixed.flatten(0, 1), (h, w), align_corners=True)).view(b, t, c, h, w)


def text_guides(s, text):
    mean = F.normalize(F.normalize(text, dim=-1).mean(1), dim=-1)
    return F.relu(linear(s, "text_guidance_projection.0", mean))


def decoded(s, x, guides):
    """x (b, t, c, h, w), guides finer and finer -> (b, t, 4h, 4w)."""
    b, t = x.shape[:2]
    maps = x.flatten(0, 1)
    for name, guide in zip(("decoder1", "decoder2"), guides, strict=True):
        maps = F.conv_transpose2d(maps, s[f"{name}.up.weight"], s[f"{name}.up.bias"], stride=2)
        maps = torch.cat([maps, guide.repeat_interleave(t, dim=0)], dim=1)
        for place in (0, 3):
            maps = conv(s, f"{name}.conv.double_conv.{place}", maps, padding=1)
            norm = f"{name}.conv.double_conv.{place + 1}"
            groups = max(1, maps.shape[1] // 16)
            maps = F.relu(F.group_norm(maps, groups, s[f"{norm}.weight"], s[f"{norm}.bias"]))
    return conv(s, "head", maps, padding=1).view(b, t, *maps.shape[-2:])


def guides(s, maps):
    names = ("guidance_projection.0", "decoder_guidance_projection.0.0", "decoder_guidance_projection.1.0")
    coarse, *finer = (F.relu(conv(s, name, x, padding=1)) for name, x in zip(names, maps, strict=True))
    return coarse, finer


def catseg_logits(state, features, maps, text, heads, window, pooling=2, kind="linear"):
    """(b, t, 4g, 4g) from dense CLIP features, the backbone's maps, and all texts."""
    s = below(state, f"{PREDICTOR}transformer.")
    guidance, finer = guides(s, maps)
    x = embedded(s, "conv1", cosines(features, text))
    for n in range(count(s, "layers.")):
        x = layer(s, f"layers.{n}", x, guidance, text_guides(s, text), heads, window, pooling, kind)
    return decoded(s, x, finer)


def partcatseg_logits(state, features, maps, generic, specific, pairs, heads, window, pooling=2):
    """Logits of both stages, and the costs that the compositional loss compares.

    Args:
        state: released names.
        features: dense CLIP features.
        maps: of the backbone.
        generic: texts of parts, objects, background.
        specific: texts of object-specific parts, background.
        pairs: rows in ``generic`` of each object-specific part's generic part and object.
        heads: of all attentions.
        window: of the Swin blocks.
        pooling: before class attention.
    """
    s = below(state, f"{PREDICTOR}transformer.")
    guidance, finer = guides(s, maps)
    arguments = heads, window, pooling, "query"
    first_cost = cosines(features, generic)
    x = embedded(s, "conv1", first_cost)
    for n in range(count(s, "layers.")):
        x = layer(s, f"layers.{n}", x, guidance, text_guides(s, generic), *arguments)
    joined = torch.stack([torch.cat([x[:, p], x[:, o]], dim=1) for p, o in [*pairs, (-1, -1)]], dim=1)
    projected = conv(s, "conv_proj_feat", joined.flatten(0, 1)).unflatten(0, joined.shape[:2])
    second_cost = cosines(projected, specific)
    y = embedded(s, "conv2", second_cost)
    for n in range(count(s, "layers_specific_part.")):
        y = layer(s, f"layers_specific_part.{n}", y, guidance, text_guides(s, specific), *arguments)
    return decoded(s, x, finer), decoded(s, y, finer), first_cost.mean(1), second_cost.mean(1)


# --- inputs, outputs, losses ------------------------------------------------------------------------------------------


def normalised(pixels, mean, std):
    return (pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def squares(pixels, clip_side, guidance_side, divisor=32):
    """Pixels (3, h, w) of any size -> both squares, (1, 3, s, s)."""
    pixels = pixels.float()
    pad = (0, -pixels.shape[2] % divisor, 0, -pixels.shape[1] % divisor)
    return [
        resized(F.pad(normalised(pixels, *statistics), pad)[None], side)
        for statistics, side in (((CLIP_MEAN, CLIP_STD), clip_side), ((MEAN, STD), guidance_side))
    ]


def window_views(pixels, side, crop, stride):
    """Crops of the squashed picture, row by row, and the picture as a whole: (n + 1, 3, crop, crop)."""
    square = resized(pixels.float()[None], side)
    crops = F.unfold(square, crop, stride=stride)[0].T.reshape(-1, 3, crop, crop)
    return torch.cat([crops, resized(pixels.float()[None], crop)])


def folded(probabilities, side, crop, stride):
    """Mean of the crops' mean and of the whole view: (n + 1, t, crop, crop) -> (t, side, side)."""
    crops = probabilities[:-1].flatten(1).T[None]
    total = F.fold(crops, side, crop, stride=stride)
    number = F.fold(torch.ones_like(crops), side, crop, stride=stride)
    return ((total / number)[0] + resized(probabilities[-1:], side)[0]) / 2


def catseg_loss(logits, labels, ignore_label, background=True):
    """logits (b, n, h, w), the last channel the background's if there is one; labels (b, H, W)."""
    n = logits.shape[1]
    target = F.one_hot(labels.masked_fill(labels == ignore_label, n - background), n + 1)[..., :n]
    weight = torch.ones(n)
    if background:
        weight[-1] = 0.05
    z = resized(logits, tuple(labels.shape[-2:])).permute(0, 2, 3, 1)
    return (weight * (F.softplus(z) - z * target)).mean()


def partcatseg_losses(first, second, object_cost, specific_cost, parts, objects, vocabulary):
    """The five terms; costs already restricted to objects + background, labels (b, H, W) in the vocabulary's ids."""
    names = [name.split("'s", 1) for name in vocabulary.parts]
    generic = sorted({part.strip() for _, part in names})
    owners = sorted({owner for owner, _ in names})
    to_owner = {n: owners.index(name) for n, name in enumerate(vocabulary.objects) if name in owners}
    size = tuple(parts.shape[-2:])
    first, second = (resized(z, size).permute(0, 2, 3, 1) for z in (first, second))
    labelled = parts != vocabulary.ignore_label
    known = torch.zeros_like(labelled)
    for n in to_owner:
        known |= objects == n
    counts = len(names) + 1, len(generic), len(owners) + 1
    y_specific, y_part, y_object = (torch.zeros(*parts.shape, count) for count in counts)
    for n, (_, part) in enumerate(names):
        y_specific[..., n] = parts == n
        y_part[..., generic.index(part.strip())] += parts == n
    for n, rank in to_owner.items():
        y_object[..., rank] = objects == n
    y_specific[~known] += F.one_hot(torch.tensor(len(names)), len(names) + 1)
    y_object[..., -1] = ~known

    def bce(z, y, weighted):
        w = torch.ones(z.shape[-1])
        w[-1] = 0.05 if weighted else 1
        return (F.binary_cross_entropy_with_logits(z, y, reduction="none") * w).mean() if z.numel() else torch.zeros(())

    p_object, p_specific = (cost.softmax(1) + 1e-10 for cost in (object_cost, specific_cost))
    q = torch.zeros_like(p_object)
    for n, (owner, _) in enumerate(names):
        q[:, owners.index(owner)] += p_specific[:, n]
    q[:, -1] += p_specific[:, -1]
    p, r = q + 1e-10, p_object + 1e-10
    m = (p + r) / 2
    divergence = (p * (p.log() - m.log()) + r * (r.log() - m.log())).sum(1) / 2
    shown = bool(known.any())
    return {
        "loss_specific_part": bce(second[labelled], y_specific[labelled], True),
        "loss_specific_background": bce(second[~known], y_specific[~known], True) if shown else torch.zeros(()),
        "loss_part": bce(first[labelled][:, : len(generic)], y_part[labelled], False),
        "loss_object": bce(first[..., len(generic) :], y_object, True),
        "loss_compositional": divergence.mean(),
    }
