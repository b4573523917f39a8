"""The picture for slides: size, both sides, the one number, and three bars of what a plan keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import ImageColor
from run_cases import PLAN, tiny

from core.curves.plan import STAGES
from mosaic_ui.compare import slide
from mosaic_ui.compare.lettering import font, wrapped
from mosaic_ui.theme import STAGE_COLOURS


def bars(picture: np.ndarray) -> dict[str, int]:
    """Return the width of each stage's bar in pixels, by its colour; 0 where there is none."""
    column = picture[:, slide.COLUMN :]
    found = {}
    for stage in STAGES:
        is_bar = (column == np.array(ImageColor.getrgb(STAGE_COLOURS[stage]))).all(2)
        found[stage] = int(is_bar.sum(1).max())
    return found


def test_the_bars_are_what_each_stage_keeps_in_sampling_order():
    picture = slide.slide(tiny())
    assert picture.shape == (1080, 1920, 3) and picture.dtype == np.uint8
    for stage, sparsity in zip(STAGES, PLAN.sparsity, strict=True):
        assert bars(picture)[stage] == pytest.approx((1 - sparsity) * slide.WIDE, abs=2)
    rows = [
        np.flatnonzero(
            (picture[:, slide.COLUMN] == ImageColor.getrgb(STAGE_COLOURS[stage])).all(1)
        )[0]
        for stage in ("early", "middle", "late")
    ]
    assert rows == sorted(rows)


def test_two_dense_sides_have_no_bars_and_a_plan_on_a_alone_is_drawn():
    both = tiny()
    both.b.plan, both.b.stages = None, [-1, -1]
    assert set(bars(slide.slide(both)).values()) == {0}
    both.a.plan, both.a.stages = PLAN, [2, 0]
    assert min(bars(slide.slide(both)).values()) > 0


def test_both_sides_are_in_their_places():
    one = tiny(n=1)
    one.a.images, one.b.images = torch.full((1, 3, 8, 8), -1.0), torch.full((1, 3, 8, 8), 0.0)
    picture = slide.slide(one)
    across = slide.MARGIN + slide.SIDE // 4, slide.MARGIN + slide.SIDE + 50 + slide.SIDE // 4
    a, b = (picture[slide.TOP + 100, x] for x in across)
    assert (a == 0).all() and (b == 128).all()


@pytest.mark.parametrize("n, size", [(1, 8), (5, 8), (40, 32), (2, 1500)])
def test_pictures_of_any_number_and_size_fit(n, size):
    sheet = slide._pictures(torch.zeros(n, 1, size, size))
    assert max(sheet.size) <= slide.SIDE and max(sheet.size) > 0.8 * slide.SIDE


def test_the_one_number_says_what_it_is():
    clear = tiny()
    clear.b.macs = clear.a.macs // 2
    number, about = slide._number(clear)
    assert number == "×2.00" and about.startswith("time of A / time of B, measured: median of 3")
    untimed = tiny()
    untimed.a.step_seconds = untimed.b.step_seconds = []
    number, about = slide._number(untimed)
    assert number == "×1.50" and "counted, nothing was timed" in about and "measured" not in about
    doubtful = tiny()
    doubtful.b.step_seconds = [[0.1, 0.1], [2.0, 2.0], [1.0, 1.0]]
    assert "measured, doubtful" in slide._number(doubtful)[1]


def test_a_stage_with_guidance_and_reuse_of_its_own_says_so():
    plan = replace(PLAN, guidance=(None, None, 1), reuse=(2, 1, 1))
    side = tiny().b
    assert slide._stage_words(side, plan, 2) == "early, 1 step: 55 % removed, guidance off"
    assert slide._stage_words(side, plan, 0).endswith("40 % removed, 1 of 2 in full")


def test_a_text_of_too_many_lines_is_cut_and_says_so():
    face = font(30)
    lines = wrapped("word " * 50 + "x" * 500, face, 300, 2)
    assert len(lines) == 2 and lines[1].endswith(" ...")
    assert all(face.getlength(line) <= 300 for line in lines)
    assert wrapped("two words", face, 300, 2) == ["two words"]


def test_a_hostile_name_only_gets_shorter():
    long = tiny(name="<b>ü\n" * 2000)
    assert slide.slide(long).shape == (1080, 1920, 3)
