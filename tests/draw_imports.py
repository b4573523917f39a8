"""Draw the imports between the rooms from the code: `python tests/draw_imports.py`.

    python tests/draw_imports.py > docs/imports.md

The drawing is a Mermaid graph and a table of arrow counts. An arrow is one module that imports
another one; `import` statements inside functions count too. tests/test_layout.py holds the rules.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from test_layout import RANK, ROOT, arrows, imports, room

HALL = "hall"
PAGE = "mosaic_ui"
HEAD = """# Imports between the rooms

`python tests/draw_imports.py > docs/imports.md` makes this page from the code; a test fails when it
is out of date. An arrow is one module that imports another one. Every room also imports the hall
(errors, files, cache, memory and their like), which imports no room; the graph leaves it out.
"""


def pairs(root: Path = ROOT) -> Counter[tuple[str, str]]:
    """Return (importing room, imported room) -> arrows, for core, the page and `app`."""
    found: Counter[tuple[str, str]] = Counter()
    for module, others in arrows(root / "core", "core").items():
        for other in others:
            found[room(module), room(other)] += 1
    for path in sorted((root / PAGE).rglob("*.py")):
        found.update(_outside(PAGE, path, root))
    found.update(_outside("app", root / "app.py", root))
    return Counter({pair: n for pair, n in found.items() if pair[0] != pair[1]})


def _outside(me: str, path: Path, root: Path) -> Counter[tuple[str, str]]:
    """Return the arrows from a file outside core to the rooms of core and, of `app`, the page."""
    found = Counter((me, room(name)) for name in _modules(path, root, "core"))
    if me != PAGE:
        found.update((me, PAGE) for _ in _modules(path, root, PAGE))
    return found


def _modules(path: Path, root: Path, package: str) -> set[str]:
    """Return the modules of a package that a file imports."""
    return {name for name, _ in imports(path, root / package, package)}


def order(name: str) -> tuple[int, str]:
    """Return the place of a room: as in RANK, then the page, then `app`."""
    last = max(RANK.values())
    return {PAGE: last + 1, "app": last + 2}.get(name, RANK.get(name, 0)), name


def graph(found: Counter[tuple[str, str]]) -> list[str]:
    """Return the Mermaid graph, imported rooms on the left, without the hall."""
    drawn = [pair for pair in found if HALL not in pair]
    lines = ["```mermaid", "graph LR"]
    for user, used in sorted(drawn, key=lambda pair: (order(pair[1]), order(pair[0]))):
        lines.append(f"    {used} -->|{found[user, used]}| {user}")
    return [*lines, "```"]


def table(found: Counter[tuple[str, str]]) -> list[str]:
    """Return the table of arrow counts: a row imports from its columns."""
    used = sorted({pair[1] for pair in found}, key=order)
    users = sorted({pair[0] for pair in found}, key=order)
    lines = [f"| imports | {' | '.join(used)} |", f"|---|{'---:|' * len(used)}"]
    for user in users:
        counts = [str(found[user, name] or "") for name in used]
        lines.append(f"| {user} | {' | '.join(counts)} |")
    return lines


def drawing() -> str:
    """Return the whole page."""
    found = pairs()
    direction = "An arrow in the graph points from the imported room to the room that uses it."
    count = (
        f"{sum(found.values())} arrows between {len({n for pair in found for n in pair})} rooms."
    )
    return "\n".join([HEAD, direction, "", *graph(found), "", count, "", *table(found), ""])


if __name__ == "__main__":
    sys.stdout.write(drawing())
