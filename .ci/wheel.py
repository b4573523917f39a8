"""Lay the checkout down as one package: the library that other programs import as `mosaicdiff`.

The checkout has six short top-level names (app.py, core, mosaic_ui, ...). They suit a checkout and
would collide in other people's environments, so an installed copy holds one name only:

    core/       -> mosaicdiff/              the science, and the public names
    mosaic_ui/  -> mosaicdiff/studio/       the page
    app.py      -> mosaicdiff/app.py        the command line
    assets/     -> mosaicdiff/assets/       the bundled models and the example plans

Imports inside core and inside mosaic_ui's folders may be relative; those between the three are
absolute in the checkout. This step replaces the checkout's names in every copied module: in
imports, and in docstrings and error sentences too, so that a sentence names what the reader has.
Line numbers stay as they are. docs/installing.md says why.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from setuptools.command.build_py import build_py

NAME = "mosaicdiff"
ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"core": NAME, "mosaic_ui": f"{NAME}/studio", "assets": f"{NAME}/assets"}
CODE = (".py", ".css", ".js", ".html")
DATA = (".json", ".safetensors", ".md")  # of assets; the training script is not part of the library
LEFT_OUT = ("__pycache__", "work", "screenshots")  # work: what the training scripts leave behind
MAIN = '''"""Run `python -m mosaicdiff`: the studio, or one of its verbs."""

import sys

from mosaicdiff.app import script

if __name__ == "__main__":
    sys.exit(script())
'''
# Names of the checkout, as they stand in code and in sentences -> names of the library.
RENAMES = (
    (r"\bpython app\.py\b", NAME),
    (r"\bapp\.py\b", NAME),
    (r"\bmosaic_ui/", f"{NAME}/studio/"),
    (r"\bmosaic_ui\b", f"{NAME}.studio"),
    (r"(?<![\w./-])core(?=\.[a-z_]|/|`)", NAME),
    (r"\b(from|import) core\b", rf"\1 {NAME}"),
)
CHECKOUT_NAMES = {"core", "mosaic_ui", "app", "assets", "tests"}


def renamed(source: str) -> str:
    """Return a module's text with the library's names in place of the checkout's."""
    for pattern, name in RENAMES:
        source = re.sub(pattern, name, source)
    return source


def checkout_imports(source: str) -> list[str]:
    """Return the names of the checkout that a module still imports: none, or it cannot run."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append(node.module or "")
    return [name for name in found if name.partition(".")[0] in CHECKOUT_NAMES]


def library_files(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Yield (path in the checkout, path in the library) of every file that is installed."""
    yield "app.py", f"{NAME}/app.py"
    for folder, target in FOLDERS.items():
        kinds = DATA if folder == "assets" else CODE
        for path in sorted((root / folder).rglob("*")):
            inside = path.relative_to(root / folder)
            if path.is_file() and path.suffix in kinds and not {*inside.parts} & {*LEFT_OUT}:
                yield f"{folder}/{inside.as_posix()}", f"{target}/{inside.as_posix()}"


class BuildLibrary(build_py):
    """The step of a build that fills build/lib."""

    def run(self) -> None:
        """Write every file of the library anew; nothing of an earlier build stays."""
        if self.editable_mode:
            raise SystemExit(
                "An editable install would need the checkout's own names: work in the checkout"
                " itself (`make run`, `from core import ...`), or `pip install .`"
            )
        library = Path(self.build_lib)
        shutil.rmtree(library / NAME, ignore_errors=True)
        for source, target in library_files():
            to = library / target
            to.parent.mkdir(parents=True, exist_ok=True)
            if to.suffix != ".py":
                shutil.copyfile(ROOT / source, to)
                continue
            text = renamed((ROOT / source).read_text(encoding="utf-8"))
            if left := checkout_imports(text):
                raise SystemExit(f"{source} imports {', '.join(left)}, which is not installed.")
            to.write_text(text, encoding="utf-8")
        (library / NAME / "__main__.py").write_text(MAIN, encoding="utf-8")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:  # noqa: ARG002
        """Return the path of every file that `run` writes."""
        targets = [target for _, target in library_files()]
        return [str(Path(self.build_lib) / t) for t in [*targets, f"{NAME}/__main__.py"]]

    def get_source_files(self) -> list[str]:
        """Return what a source distribution must hold so that a wheel can be built from it."""
        return [*(source for source, _ in library_files()), ".ci/wheel.py", "requirements.txt"]
