"""The house: which room may import which, no circles, and the old paths that still import."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest
from conftest import NEEDS_PAGE, pytest_ignore_collect

ROOT = Path(__file__).resolve().parents[1]
# Each room imports only what stands further left (a smaller number), itself, and the hall.
RANK = {
    "hall": 0,
    "curves": 1,
    "models": 1,
    "calibration": 2,
    "pruning": 3,
    "allocation": 4,
    "mosaic": 4,
    "sampling": 5,
    "workshop": 6,
    "runs": 7,
    "tuner": 7,
    "sweep": 8,
    "bench": 8,
    "cli": 9,
}


def room(dotted: str) -> str:
    """Return the room of a module of core: "pruning.obs" -> "pruning", "errors" -> "hall"."""
    first = dotted.partition(".")[0]
    return first if first in RANK else "hall"


def imports(path: Path, root: Path, package: str) -> list[tuple[str, int]]:
    """Return (module of the package, line) of every import of the package's own modules.

    `root` is the package's folder; `path` lies in it or outside.
    """
    here = [package, *path.relative_to(root).parts[:-1]] if path.is_relative_to(root) else []
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level and not here:
                continue  # a file outside the package: what is relative is not the package's
            if node.level:
                base = here[: len(here) - node.level + 1]
                name = ".".join([*base, *([node.module] if node.module else [])])
            else:
                name = node.module or ""
            folder = root.joinpath(*name.split(".")[1:])
            modules = [a.name for a in node.names if (folder / f"{a.name}.py").exists()]
            names = [f"{name}.{m}" for m in modules] or [name]
            found += [(n, node.lineno) for n in names]
        elif isinstance(node, ast.Import):
            found += [(a.name, node.lineno) for a in node.names]
    return [(n.partition(".")[2], line) for n, line in found if n.startswith(package + ".")]


def arrows(root: Path, package: str) -> dict[str, set[str]]:
    """Return module -> modules that it imports, of one package."""
    graph = {}
    for path in sorted(root.rglob("*.py")):
        if path.name != "__init__.py":
            me = ".".join(path.relative_to(root).with_suffix("").parts)
            graph[me] = {name for name, _ in imports(path, root, package)}
    return graph


def wrong_directions(root: Path) -> list[str]:
    """Return every import of core that goes against the order of the rooms."""
    wrong = []
    for path in sorted(root.rglob("*.py")):
        me = ".".join(path.relative_to(root).with_suffix("").parts)
        if me == "__init__":
            continue  # the public surface, looked up when asked for
        for name, line in imports(path, root, "core"):
            mine, other = room(me), room(name)
            if mine != other and other != "hall" and RANK[other] >= RANK[mine]:
                wrong.append(f"core/{path.relative_to(root)}:{line} imports {name}")
    return wrong


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules that import themselves along some way."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(graph.get(start, ()))
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                todo += graph.get(one, ())
        return seen

    return [one for one in graph if one in reach(one)]


def test_every_import_of_core_goes_one_way():
    assert wrong_directions(ROOT / "core") == []


@pytest.mark.parametrize("package", ["core", "mosaic_ui"])
def test_there_is_no_circle(package):
    graph = arrows(ROOT / package, package)
    assert len(graph) > 25 and circles(graph) == []


def test_a_wrong_import_is_seen(tmp_path):
    """The test itself: a pruning module that imports the workshop,
    and two that import each other.
    """
    for name, text in {
        "pruning/a.py": "def f():\n    from ..workshop.b import g\n",
        "workshop/b.py": "from ..pruning import a\n",
        "errors.py": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert wrong_directions(tmp_path) == ["core/pruning/a.py:2 imports workshop.b"]
    assert sorted(circles(arrows(tmp_path, "core"))) == ["pruning.a", "workshop.b"]


def test_the_page_imports_core_and_core_never_the_page():
    for path in (ROOT / "core").rglob("*.py"):
        text = path.read_text()
        assert "mosaic_ui" not in text.replace("`mosaic_ui", ""), path
        assert "import gradio" not in text and "import plotly" not in text, path


def test_no_import_waits_for_type_checking_because_of_a_circle():
    """What stands under TYPE_CHECKING is heavy (diffusers), never of this package."""
    for path in [*(ROOT / "core").rglob("*.py"), *(ROOT / "mosaic_ui").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                for inner in ast.walk(node):
                    assert not (isinstance(inner, ast.ImportFrom) and inner.level), path


def test_paths_of_version_0_1_still_import():
    from core._old_paths import MOVED

    for old, new in MOVED.items():
        module = importlib.import_module(f"core.{old}")
        assert module is importlib.import_module(f"core.{new}")
        assert module.__spec__.name == f"core.{new}"
    from core import MosaicTransformer, StagePlan, get_workshop  # noqa: F401
    from core.calibration import CalibrationSettings, cache_root, calibrate  # noqa: F401
    from core.mosaic import MosaicTransformer as before
    from core.sampling import compare, scheduler_like  # noqa: F401
    from core.workshop import Workshop  # noqa: F401

    assert before is MosaicTransformer
    with pytest.raises(ImportError):
        importlib.import_module("core.nothing")


def test_the_drawing_of_the_imports_is_up_to_date():
    """Mend it with `python tests/draw_imports.py > docs/imports.md`."""
    from draw_imports import drawing

    assert (ROOT / "docs" / "imports.md").read_text() == drawing()


def test_the_drawing_counts_every_arrow_between_two_rooms(tmp_path):
    from draw_imports import pairs

    for name, text in {
        "core/pruning/a.py": "from ..curves.b import g\nfrom ..errors import E\nimport torch\n",
        "core/pruning/c.py": "def f():\n    from ..curves import b\n    from .a import h\n",
        "core/curves/b.py": "",
        "core/errors.py": "",
        "mosaic_ui/d.py": "from core.curves.b import g\nfrom .e import x\n",
        "mosaic_ui/e.py": "",
        "app.py": "def main():\n    from mosaic_ui.d import x\n    from core import curves\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert pairs(tmp_path) == {
        ("pruning", "curves"): 2,
        ("pruning", "hall"): 1,
        ("mosaic_ui", "curves"): 1,
        ("app", "mosaic_ui"): 1,
    }


def test_a_machine_without_the_page_runs_every_cuda_test(monkeypatch):
    """A machine lent for its GPU has neither gradio nor a browser."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    files = {path: path.read_text() for path in sorted((ROOT / "tests").glob("test_*.py"))}
    kept = [path for path in files if pytest_ignore_collect(path) is None]
    mark = "pytest.mark." + "cuda"  # in two parts: this file has no such test
    gpu = [path for path, words in files.items() if mark in words]
    assert len(gpu) > 8 and set(gpu) <= set(kept) and len(kept) < len(files)
    for path in gpu:
        roots = set()
        for node in ast.walk(ast.parse(files[path])):
            if isinstance(node, ast.ImportFrom):
                roots.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Import):
                roots |= {name.name.partition(".")[0] for name in node.names}
        assert not roots & {*NEEDS_PAGE, "pandas"}, path
