"""YAML as people write it by hand, where a slip must not pass in silence."""

from collections.abc import Hashable
from typing import Any

import yaml


class StrictLoader(yaml.SafeLoader):
    """YAML without what plain YAML takes for something else in silence, and without aliases.

    Of repeated keys it keeps the last; 010 is 8 to it, and 1:30 is 90. A few lines of aliases (``*a``) can stand for
    billions of values.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """One node; an alias is an error."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"the alias *{event.anchor}: write it out", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """One mapping; a key given twice is an error."""
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                twice = f"the key `{key}` is given twice"
                raise yaml.constructor.ConstructorError(None, None, twice, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """A number; one that is not what it looks like is an error."""
        kind = node.tag.rpartition(":")[2]
        value = getattr(self, f"construct_yaml_{kind}")(node)
        digits = node.value.lstrip("+-")
        if ":" in digits or (kind == "int" and digits[0] == "0" and digits.isdigit() and len(digits) > 1):
            problem = f"{node.value} stands for the number {value} in YAML: write that, or put it in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value


for _kind in ("int", "float"):
    StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", StrictLoader.construct_number)
