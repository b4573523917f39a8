"""The report of kept runs: whole in one file, harmless, and true about what was measured."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from hostile import HOSTILE, harmless
from run_cases import BEGUN, PLAN, SETTINGS, tiny

from core.errors import StudioError
from core.runs.store import RunStore
from mosaic_ui.runs import along, record
from mosaic_ui.runs.report import LARGE, report_html
from mosaic_ui.runs.report_plot import Scale, plot_svg
from mosaic_ui.runs.table import title_of


@pytest.fixture
def store(tmp_path, monkeypatch) -> RunStore:
    monkeypatch.setenv("MOSAIC_DATA", str(tmp_path / "data"))
    return record.store()


class Addresses(HTMLParser):
    """Collect what a browser would fetch for a page, and its scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        names = ("src", "href", "srcset", "action", "data", "poster", "xlink:href")
        self.found += [value or "" for name, value in attrs if name in names]


def test_the_report_is_whole_in_one_file_and_has_every_run(store):
    runs = [store.add(tiny(), "key", name=name, notes=f"of {name}") for name in ("one", "two")]
    page = report_html(runs, store)
    addresses = Addresses(page)
    assert addresses.scripts == 0 and "@import" not in page and "url(" not in page
    pictures = [a for a in addresses.found if a.startswith("data:image/png;base64,")]
    assert len(pictures) == 4
    assert set(addresses.found) - set(pictures) == {"#run-1", "#run-2"}
    assert 'id="run-1"' in page and 'id="run-2"' in page
    assert "default-src 'none'" in page and page.count("<svg") == 1
    for words in ("of one", "said by the comparison", "CPU, 2 threads", "torch ", "seed 7", "27.5"):
        assert words in page, words


def test_every_number_says_how_it_came_about(store):
    page = report_html([store.add(tiny(), "key")], store)
    heads = re.findall(r"<th[^>]*>(.*?)</th>", page)
    assert "Speed-up<small>measured</small>" in heads
    assert "Speed-up<small>predicted</small>" in heads
    assert "MACs of B<small>counted</small>" in heads
    cells = re.findall(r'<td class="num">(.*?)</td>', page)
    told = dict(zip([h for h in heads if "<small>" in h], cells, strict=True))
    assert told["Speed-up<small>measured</small>"].startswith("×2.00")
    assert told["Speed-up<small>predicted</small>"] == "–"  # B was not predicted
    assert told["Time A<small>measured</small>"] == "2.00 ± 0.10 s"


def test_a_run_whose_pictures_are_gone_says_so_and_the_rest_stands(store):
    runs = [store.add(tiny(), "key", name=name) for name in ("gone", "there")]
    shutil.rmtree(store.folder / "runs" / runs[0].id)
    page = report_html(runs, store)
    assert page.count("<img") == 2
    assert "The pictures of this run are not in the data folder any more." in page
    (store.folder / "runs" / runs[1].id / "comparison.safetensors").write_bytes(b"x")
    page = report_html(runs, store)
    assert page.count("<img") == 2  # the small sheets


def test_a_run_without_a_result_says_its_state(store):
    begun = store.begin((None, PLAN), ("Dense", "mine"), SETTINGS, **BEGUN)
    store.end(begun.id, "failed", "The disk was full.")
    page = report_html([store.get(begun.id)], store)
    assert "This run has no result: failed." in page and "The disk was full." in page
    assert "<svg" not in page and "<img" not in page


def test_every_text_of_a_user_is_escaped(store):
    run = store.add(tiny(name=HOSTILE), "key", name=HOSTILE, notes=HOSTILE)
    page = report_html([run], store)
    assert harmless(page) and "<script" not in page and "alert(1)" in page


def test_many_runs_have_small_pictures_and_too_many_are_refused(store):
    run = store.add(tiny(), "key")
    few, many = (report_html([run] * n, store) for n in (LARGE, LARGE + 1))
    assert many.count("<img") == 2 * (LARGE + 1) and few.count("<img") == 2 * LARGE
    for n in (0, 201):
        with pytest.raises(StudioError, match="1 to 200"):
            report_html([run] * n, store)


# ------------------------------------------------------------ the plot


def test_a_point_lies_where_its_numbers_are(store):
    fast = store.add(tiny(), "key")
    slow = replace(fast, psnr=20.0, b=replace(fast.b, seconds=1.5, seconds_spread=0.01))
    drawn = plot_svg([fast, slow], "PSNR")
    marks = re.findall(r'<circle( class="front")? cx="([\d.]+)" cy="([\d.]+)"', drawn)
    (first, x1, y1), (second, x2, y2) = marks
    assert first and not second  # the slower one is farther, too
    assert float(x1) < float(x2) and float(y1) < float(y2)  # down is lower
    assert "500 ms per image, PSNR 27.5" in drawn and drawn.count('class="bar"') == 2
    fids = plot_svg([fast, replace(slow, b=replace(slow.b, fid=9.0))], "FID")
    assert "lower is better" in fids and "FID 9.00" in fids


def test_nothing_to_draw_is_nothing(store):
    run = replace(store.add(tiny(), "key"), psnr=None)
    assert plot_svg([run], "PSNR") == ""


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (487.0, 513.0), (-3.0, 2.0), (1e-6, 3e-6)])
def test_ticks_are_round_and_within(low, high):
    scale = Scale(low, high, 0.0, 100.0)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 7 and low <= ticks[0] and ticks[-1] <= high
    assert scale.at(low) == 0 and scale.at(high) == 100


# ------------------------------------------------------------ what the script of the table asks


def page_of(workshop):
    page = SimpleNamespace(server_name="127.0.0.1", share=False, root_path="")
    return SimpleNamespace(workshop=workshop, page=page)


def test_a_ticked_run_is_given_as_report_slide_and_program(workshop, store):
    run = store.add(tiny(), workshop.model_key)
    ask = along.server_function(page_of(workshop))
    report = ask(["report", [run.id, "nobody", 5]])
    assert report["name"] == "mosaic-report-1.html"
    assert report["address"].startswith("data:text/html;base64,")
    slide = ask(["slide", [run.id]])
    assert slide["name"].endswith("-slide.png") and slide["address"].startswith("data:image/png")
    assert "seed=7" in ask(["python", [run.id]])["text"]
    other = store.add(tiny(), "another model")
    assert "choose the run's model" in ask(["python", [other.id]])["said"]
    assert title_of(run) and "Tick one run" in ask(["slide", [run.id, other.id]])["said"]


JUNK = [None, "x", 5, {}, [], ["report"], ["report", None], ["report", []], ["pdf", ["x"]]]
JUNK += [["slide", ["../../etc/passwd"]], ["python", [{}]], [["report"], []], ["slide", ["\ud800"]]]


@pytest.mark.parametrize("junk", JUNK)
def test_what_is_no_question_has_a_sentence(workshop, store, junk):
    answer = along.server_function(page_of(workshop))(junk)
    assert set(answer) == {"said"} and "\n" not in answer["said"] and "/" not in answer["said"]
