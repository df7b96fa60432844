"""Prompt templates, in the order in which their embeddings are channels of a cost volume.

``imagenet`` and ``imagenet_select`` are the lists that OpenAI published with CLIP for ImageNet (all 80, and the seven
best, to which CAT-Seg added an eighth); ``single`` is CAT-Seg's one template, ``vild`` the fourteen of ViLD that OVSeg
and SCAN use, with their uneven full stops, ``miniature`` what captions of the miniature's pictures look like.
"""

import json
from importlib import resources

TEMPLATES: dict[str, tuple[str, ...]] = {
    name: tuple(templates)
    for name, templates in json.loads(
        resources.files(__package__).joinpath("prompts.json").read_text(encoding="utf-8")
    ).items()
}
IMAGENET, MINIATURE = TEMPLATES["imagenet"], TEMPLATES["miniature"]


def checked_templates(name: str) -> tuple[str, ...]:
    """The templates of a name. Raises ValueError that lists the names there are."""
    if name not in TEMPLATES:
        raise ValueError(f"templates must be one of {', '.join(TEMPLATES)}, not {name!r}")
    return TEMPLATES[name]
