"""A tiny tree of drawn pictures in the layout and file formats of the full release of ADE20K (ADE20K_2021_17_01)."""

import json

import numpy as np
from PIL import Image

from tests.data.released_layout import picture, save

# classes of the release, by the published mapping
CAR, BUS, PERSON, TREE, WHEEL, RIM, WINDOW, DOOR, HANDLE, HEAD, TORSO = (
    401, 327, 1831, 2855, 3035, 2122, 3050, 774, 1180, 1206, 2820,
)  # fmt: skip


def encode(codes, instances):
    """(H, W, 3) uint8: class in R and G, instance in B; R carries a last digit that says nothing, as in the release."""
    return np.stack([codes // 256 * 10 + instances % 10, codes % 256, instances], axis=-1).astype(np.uint8)


def box(size, corners):
    mask = np.zeros(size, bool)
    top, left, bottom, right = corners
    mask[top:bottom, left:right] = True
    return mask


def write_photo(folder, name, size, things, encoding="utf-8"):
    """Draw things, first to last, later ones in front on their own level.

    Each thing: (number, class, level, corners, extra json). Masks are 255 where visible on their level, else 128.
    """
    folder.mkdir(parents=True, exist_ok=True)
    levels = max((level for _, _, level, _, _ in things), default=0) + 1
    codes, owner = np.zeros((levels, *size), int), np.full((levels, *size), -1)
    for number, code, level, corners, _ in things:
        mask = box(size, corners)
        codes[level][mask], owner[level][mask] = code, number
    numbers = {n: 5 * (k + 1) for k, n in enumerate(sorted((t[0] for t in things), reverse=True))}
    for level in range(levels):
        instances = np.vectorize(lambda n: numbers.get(n, 0))(owner[level])
        suffix = f"parts_{level}" if level else "seg"
        Image.fromarray(encode(codes[level], instances)).save(folder / f"{name}_{suffix}.png")
    entries = []
    for number, code, level, corners, extra in things:
        mask = box(size, corners)
        path = f"{name}/instance_{number:03d}_{name}.png"
        values = np.where(owner[level] == number, 255, np.where(mask, 128, 0)).astype(np.uint8)
        if not extra.get("deleted"):
            save(folder / path, values)
        entries.append(
            {
                "id": number,
                "name": "café table",
                "name_ndx": code,
                "occluded": [],
                "crop": "0",
                "parts": {"hasparts": [], "ispartof": [], "part_level": level},
                "instance_mask": path,
                **extra,
            }
        )
    write_json(folder / f"{name}.json", entries, encoding)
    save(folder / f"{name}.jpg", picture(size, len(things)))


def write_json(path, entries, encoding="utf-8"):
    content = {"annotation": {"filename": path.stem + ".jpg", "object": entries}}
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))


STREET = [
    (0, TREE, 0, (0, 0, 20, 60), {}),
    (1, CAR, 0, (10, 4, 36, 40), {}),
    (3, CAR, 0, (14, 30, 34, 58), {}),  # in front of the first; number 2 is missing, as after a deletion
    (4, PERSON, 0, (16, 44, 30, 50), {"parts": {"part_level": "0"}}),
    (5, CAR, 0, (2, 2, 6, 6), {"deleted": 1}),
    (6, WHEEL, 1, (30, 6, 36, 12), {"name_ndx": WHEEL}),
    (7, RIM, 2, (32, 8, 34, 10), {}),
    (8, DOOR, 1, (14, 14, 30, 28), {}),
    (9, WINDOW, 2, (15, 16, 20, 26), {}),
    (10, HANDLE, 2, (22, 24, 24, 26), {}),
    (11, HEAD, 1, (16, 45, 20, 49), {}),
    (12, WINDOW, 1, (2, 50, 8, 58), {}),  # on the tree: no part of anything in the vocabulary
]


def write_release(root):
    street = root / "images/ADE/training/urban/street"
    write_photo(street, "ADE_train_00000007", (40, 60), STREET, "latin-1")
    write_photo(
        root / "images/ADE/training/forest",
        "ADE_train_00000003",
        (20, 30),
        [(0, TREE, 0, (0, 0, 20, 30), {}), (1, PERSON, 0, (4, 4, 18, 10), {})],
    )
    write_photo(
        root / "images/ADE/validation/street",
        "ADE_val_00000001",
        (30, 44),
        [
            (0, BUS, 0, (4, 4, 26, 40), {}),
            (1, WINDOW, 1, (6, 6, 14, 36), {}),
            (2, PERSON, 0, (8, 8, 12, 12), {}),
            (3, TREE, 0, (8, 8, 12, 12), {}),  # hides the person completely
        ],
    )
    (street / "._ADE_train_00000007.jpg").write_bytes(b"\x00\x05\x16\x07")
    return root
