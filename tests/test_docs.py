"""README and docs/: short, their links lead somewhere, and their numbers are those of the files."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

import core
from core.bench import searches
from core.bench.front_table import as_good_sentences, budget_table, contender_table
from core.bench.row_file import RowFile
from core.curves.plan import StagePlan
from core.models.bundled import BUNDLED, FASHION
from core.tuner.front_rows import FILE, read_rows, shown
from core.workshop.study import Finding, findings, load_study, markdown, verdicts

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "assets").glob("*/README.md"),
]
STUDIES = [
    (BUNDLED, "study"),
    (FASHION, "study"),
    (FASHION, "sharing"),
    (FASHION, "weighting"),
]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def found(model: Path, study: str = "study") -> list[Finding]:
    return findings(load_study(model / f"{study}.json"))


def test_the_readme_is_short_and_tells_the_two_projects_apart():
    _, _, page = text("README.md").removeprefix("---\n").partition("\n---\n")
    assert 50 < len(page.splitlines()) <= 150  # without what a Space reads
    assert "nothing to do with the video tool" in text("README.md")


def anchor(heading: str) -> str:
    """Return the name that a heading has in a link."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, part = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if part:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            assert part in map(anchor, headings), link


@pytest.mark.parametrize(("model", "study"), STUDIES)
def test_the_studies_tables_are_the_generated_ones(model, study):
    assert markdown(found(model, study)) in text("docs/study.md")


@pytest.mark.parametrize("model", [BUNDLED, FASHION], ids=lambda m: m.name)
def test_the_studies_sentences_are_the_generated_ones(model):
    for sentence in verdicts(found(model)):
        assert f"- {sentence}" in text("docs/study.md")


@pytest.mark.parametrize("steps", [50, 10])
@pytest.mark.parametrize("target", [0.33, 0.5])
def test_the_short_table_has_the_studys_rows(steps, target):
    def fid(f: Finding) -> str:
        return f"{f.fid:.2f} ± {f.fid_spread:.2f}" if f.seeds > 1 else f"{f.fid:.2f}"

    rows = [f for f in found(BUNDLED) if f.base_steps == steps]
    dense, pruned, uniform, magnitude = (
        next(f for f in rows if f.method == name)
        for name in (
            "dense",
            f"MosaicDiff {target}",
            f"uniform OBS {target}",
            f"magnitude, no compensation {target}",
        )
    )
    (fewer,) = [f for f in rows if f.family == "dense" and f.target == target]
    page = text("docs/study.md")
    (line,) = [x for x in page.splitlines() if x.startswith(f"| {steps} steps, {target} |")]
    assert line.split(" | ")[1] == f"{pruned.saved:.0%}"
    fids = " | ".join(map(fid, (dense, pruned, uniform, magnitude)))
    assert line.endswith(f"| {fids} | {fid(fewer)} ({fewer.steps} steps) |")


@pytest.mark.parametrize("model", [BUNDLED, FASHION], ids=lambda m: m.name)
def test_the_tables_of_the_front_are_the_generated_ones(model):
    found = shown(read_rows(model / FILE))
    page = text("docs/study.md")
    assert contender_table(found) in page and budget_table(found) in page
    for sentence in as_good_sentences(found):
        assert f"- {sentence}" in page


def test_the_table_of_searches_is_the_generated_one():
    rows = RowFile(FASHION / searches.FILE).rows
    assert searches.table(rows) in text("docs/study.md")


def test_the_readmes_first_table_is_the_front_of_the_bundled_model():
    found = shown(read_rows(BUNDLED / FILE))
    page = text("README.md")
    assert budget_table(found) in page
    assert page.index("front.png") < page.index("| work of dense UniPC 10 |")
    for sentence in as_good_sentences(found):
        assert sentence in page


def test_every_field_of_a_plan_has_a_row():
    rows = re.findall(r"^\| `(\w+)` \|", text("docs/plan-file.md"), re.M)
    assert rows == [f.name for f in fields(StagePlan)]


def test_a_rooms_row_for_every_folder_of_core():
    for folder in (ROOT / "core").iterdir():
        if (folder / "__init__.py").exists():
            assert f"`{folder.name}/`" in text("docs/how-it-works.md")


def test_the_glossary_has_its_twelve_words():
    words = re.findall(r"^\| (\w+) \| [A-Z]", text("docs/glossary.md"), re.M)
    assert words == sorted(
        "cut level group width bin path order rung plan stage mosaic workshop".split()
    )


def test_what_is_cited_has_the_version():
    version = core.__version__
    assert f"\nversion: {version}\n" in text("CITATION.cff")
    assert f"version = {{{version}}}" in text("README.md")
    assert f"## {version}" in text("CHANGELOG.md")


def test_the_moving_picture_is_small():
    assert (ROOT / "assets/screenshots/drag.gif").stat().st_size < 3_000_000
