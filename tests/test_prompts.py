"""Prompts longer than the text encoders read: said by comparisons, on the page, and of captions."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from test_calibration_data import TINY, paint
from tiny_sdxl import make_sdxl

from core.calibration.data import DataOptions
from core.curves.plan import StagePlan
from core.models.families import SDXL, leaves
from core.models.prompts import PROMPTS, cut_prompts
from core.workshop.compare import compare
from core.workshop.comparison import Comparison, Preview, SampleSettings
from core.workshop.workshop import Workshop
from mosaic_ui.compare.figures import verdict_html

FITS = "a " * 75  # one token a letter, and one each for start and end
PLAN = StagePlan((93, 550), (0.4, 0.1, 0.55), method="magnitude")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    from core.models.checkpoints import load_checkpoint

    folder = make_sdxl(tmp_path_factory.mktemp("prompts") / "tiny-sdxl")
    return Workshop(
        load_checkpoint(folder, dtype=torch.float32), TINY, tmp_path_factory.mktemp("cache")
    )


@pytest.fixture
def pipeline(shop):
    return shop.checkpoint.pipeline


def test_77_tokens_are_read_and_more_are_cut(pipeline):
    assert cut_prompts(pipeline, [FITS, *PROMPTS, ""], "") == ""
    assert cut_prompts(SimpleNamespace(), ["z" * 900]) == ""  # a model of classes
    alike = SDXL.conditions(pipeline, [FITS, FITS + "b"])
    assert all(torch.equal(v[0], v[1]) for v in leaves(alike.positive))
    said = cut_prompts(pipeline, [FITS + "b"])
    assert 'Of the prompt "a a a' in said and said.endswith('without "b".')
    assert "the text encoders read 77 of 78 tokens" in said


def test_each_prompt_and_the_negative_one_are_named(pipeline):
    said = cut_prompts(pipeline, ["a fox", FITS + "cat", "a fox", FITS + "dog"], FITS + "fog")
    assert "prompt 2" in said and "prompt 3" in said and "prompt 1" not in said
    assert "negative prompt" in said and all(rest in said for rest in ('"cat"', '"dog"', '"fog"'))
    many = cut_prompts(pipeline, [FITS + chr(98 + i) for i in range(9)])
    assert many.count("77 of 78") == 3 and "and 6 more are cut" in many


def test_an_encoder_that_reads_less_is_named(pipeline):
    second = copy.deepcopy(pipeline.tokenizer_2)
    second.model_max_length = 10
    odd = SimpleNamespace(tokenizer=pipeline.tokenizer, tokenizer_2=second)
    assert "the second text encoder reads 10 of 12 tokens" in cut_prompts(odd, ["a " * 10])
    both = cut_prompts(odd, [FITS + "b"])
    assert (
        "the first text encoder reads 77 of 78" in both
        and "the second text encoder reads 10 of 78" in both
    )
    alone = SimpleNamespace(tokenizer=None, tokenizer_2=second)  # SDXL's refiner
    assert "the text encoders read 10 of 12" in cut_prompts(alone, ["a " * 10])


def test_a_comparison_says_what_it_did_not_read(shop):
    settings = SampleSettings(
        prompts=(FITS + "cat", "a fox"), negative=FITS + "fog", steps=2, repeats=1, guidance=5.0
    )
    *before, found = compare(shop, None, PLAN, settings, previews=False)
    assert isinstance(found, Comparison) and isinstance(before[0], Preview)
    for said in (before[0].text, found.notes, found.to_json()["notes"], verdict_html(found)):
        assert "77 of 80 tokens" in said and "prompt 1" in said and "negative prompt" in said
    assert "cat" in before[0].text and before[0].text == found.notes
    short = SampleSettings(prompts=("a cat", "a fox"), steps=2, repeats=1)
    assert list(compare(shop, None, PLAN, short, previews=False))[-1].notes == ""


def captioned(folder, texts: list[str]) -> DataOptions:
    """Write a folder of as many pictures as texts, in a mere place."""
    for i, text in enumerate(texts):
        paint(folder / f"{i}", 1, (32, 32), "RGB")
        (folder / f"{i}" / "0").rename(folder / f"{i}" / "train")
        if text:
            (folder / f"{i}" / "train" / "000.caption").write_text(text)
    return DataOptions(images=str(folder))


def test_captions_that_are_cut_are_said(shop, tmp_path):
    texts = ["a cat"] * 7 + [FITS + "dog"]
    source = Workshop(
        shop.checkpoint, TINY, tmp_path / "c", captioned(tmp_path / "p", texts)
    ).source
    assert "only 8 different latents" in source.warning
    assert (
        "caption 2" in source.warning
        and "77 of 80 tokens" in source.warning
        and '"dog"' in source.warning
    )
    source = Workshop(
        shop.checkpoint, TINY, tmp_path / "c", captioned(tmp_path / "q", ["a cat"] * 8)
    ).source
    assert "caption" not in source.warning


def test_prompts_from_folders_are_said(shop, tmp_path):
    paint(tmp_path / "p", 8, (32, 32), "RGB")
    for i in range(8):
        (tmp_path / "p" / str(i)).rename(tmp_path / "p" / f"{i}_red fox")
    source = Workshop(
        shop.checkpoint, TINY, tmp_path / "c", DataOptions(images=str(tmp_path / "p"))
    ).source
    assert "the sub-folders' names are the prompts: red fox" in source.warning


def test_a_class_in_two_folders_is_said(workshop, tmp_path):
    paint(tmp_path / "p", 20)
    (tmp_path / "p" / "4").rename(tmp_path / "p" / "03")
    source = Workshop(
        workshop.checkpoint, TINY, tmp_path / "c", DataOptions(images=str(tmp_path / "p"))
    ).source
    assert "class 3 is in the folders 03 and 3" in source.warning
