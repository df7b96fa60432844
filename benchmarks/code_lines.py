"""Lines of code without blank lines, comments and docstrings: ``python benchmarks/code_lines.py [FOLDER]``."""

from __future__ import annotations

import ast
import sys
import tokenize
from collections import defaultdict
from pathlib import Path
from statistics import median

LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(path: Path) -> int:
    """Lines of a Python file that hold code; a statement over several lines counts each of them."""
    with tokenize.open(path) as file:
        tokens = [token for token in tokenize.generate_tokens(file.readline) if token.type not in LAYOUT]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len(lines - docstring_lines(ast.parse(path.read_text(encoding="utf-8"))))


def docstring_lines(tree: ast.Module) -> set[int]:
    """Lines of the texts that stand alone as statements: docstrings, and those below attributes."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, node.end_lineno + 1)
    }


def main(folder: str = "ovparts_lib") -> None:
    """Print code lines of each package, their sum, and the length of files (all lines)."""
    root = Path(folder)
    files = sorted(root.rglob("*.py"))
    packages: dict[str, list[int]] = defaultdict(list)
    for path in files:
        parts = path.relative_to(root).parts
        packages[parts[0] if len(parts) > 1 else "."].append(code_lines(path))
    for package, counts in sorted(packages.items()):
        print(f"{package:16}{sum(counts):7,} code lines in {len(counts):3} files")
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    longest = max(lengths, key=lambda path: lengths[path])
    print(f"{'total':16}{sum(map(sum, packages.values())):7,} code lines in {len(files):3} files")
    print(f"files have {median(lengths.values()):.0f} lines in the median, {lengths[longest]} at most ({longest})")


if __name__ == "__main__":
    main(*sys.argv[1:])
