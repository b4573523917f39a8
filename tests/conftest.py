"""A tiny random DiT pipeline on disk, and a workshop over it: real code paths in seconds, no
trained weights.
"""

from __future__ import annotations

import gc
import importlib.util
import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from playwright.sync_api import Page


NEEDS_PAGE = ("gradio", "mosaic_ui", "playwright", "plotly")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave the page's tests out where the page's libraries are not, as on a machine lent for
    its GPU. A file with a CUDA test stays: it imports none of them.
    """
    if collection_path.suffix != ".py" or importlib.util.find_spec("gradio") is not None:
        return None
    words = collection_path.read_text()
    if "pytest.mark.cuda" in words:
        return None
    return True if any(name in words for name in NEEDS_PAGE) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs CUDA on a machine without."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs CUDA"))


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what every test has: libraries, and the tests."""
    gc.collect()
    gc.freeze()


def make_pipeline(
    folder: Path,
    blocks: int = 2,
    heads: int = 4,
    head_dim: int = 16,
    seed: int = 0,
    equal_embedders: bool = True,
) -> Path:
    """A DiT pipeline folder as diffusers writes it, random weights (adaLN included), with
    calibration latents beside it.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    transformer = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        num_layers=blocks,
        in_channels=4,
        out_channels=4,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )
    if equal_embedders:
        first = transformer.transformer_blocks[0].norm1.emb.state_dict()
        for block in transformer.transformer_blocks[1:]:
            block.norm1.emb.load_state_dict(first)
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=4,
        sample_size=32,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    scheduler = DDIMScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False
    )
    names = {str(i): f"thing {i}" for i in range(10)}
    DiTPipeline(transformer, vae, scheduler, id2label=names).save_pretrained(folder)
    (folder / "calibration").mkdir()
    save_file(
        {"latents": torch.randn(300, 4, 8, 8), "labels": torch.arange(300, dtype=torch.int16) % 10},
        folder / "calibration" / "latents.safetensors",
    )
    return folder


def calibrated(folder: Path, settings, cache: Path, device: str = "cpu"):
    """The calibrated workshop of a model folder, fp32."""
    from core.models.checkpoints import load_checkpoint
    from core.workshop.workshop import Workshop

    shop = Workshop(load_checkpoint(folder, device, dtype=torch.float32), settings, cache)
    shop.calibrate()
    return shop


@pytest.fixture(scope="session", autouse=True)
def data_of_the_tests(tmp_path_factory) -> Iterator[Path]:
    """Keep runs and plans in a temporary folder: no test writes to the home.

    A device is timed in one round: no test judges how fast it is.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("data")
        patch.setenv("MOSAIC_DATA", str(folder))
        patch.setattr("core.workshop.device_times.LATENCY_SECONDS", 0.0)
        yield folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    return make_pipeline(tmp_path_factory.mktemp("model") / "tiny-dit")


@pytest.fixture(scope="session")
def small_settings():
    from core.calibration.settings import CalibrationSettings

    return CalibrationSettings(edges=(0, 100, 300, 600, 1000), images=32, held_out=16)


@pytest.fixture(scope="session")
def workshop(model_folder, small_settings, tmp_path_factory):
    """Calibrated once for the whole run; tests must not change it."""
    return calibrated(model_folder, small_settings, tmp_path_factory.mktemp("cache"), "auto")


@pytest.fixture(scope="session")
def judged_workshop(small_settings, tmp_path_factory):
    """A tiny model with a random feature network beside it."""
    from judges import random_judge

    folder = make_pipeline(tmp_path_factory.mktemp("judged") / "tiny")
    random_judge().save(folder / "features")
    return calibrated(folder, small_settings, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def one_browser():
    """A Chromium for all tests of a process: its first page is the dearest."""
    from browser import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(one_browser):
    """The Chromium, without any page of another file."""
    from browser import close_all

    yield one_browser
    close_all(one_browser)


@pytest.fixture(scope="module")
def studio(workshop):
    """The address of a studio on the tiny calibrated model."""
    from browser import serve

    with serve(workshop) as url:
        yield url


@contextmanager
def quiet_visitor(browser, studio) -> Iterator[Page]:
    """Open the page for a fresh visitor.

    Whatever the test does, nothing may leave the machine and the console must stay clean.
    """
    from browser import leave, visitor

    opened, watch = visitor(browser, studio)
    yield opened
    leave(opened)
    assert watch.hosts <= {"127.0.0.1"}, watch.hosts
    assert not watch.errors, watch.errors


@pytest.fixture
def page(browser, studio):
    """Open the page for a fresh visitor."""
    with quiet_visitor(browser, studio) as opened:
        yield opened


@pytest.fixture(scope="module")
def one_page(browser, studio):
    """Open the page once for the tests of a file that take `same_page`."""
    with quiet_visitor(browser, studio) as opened:
        yield opened


@pytest.fixture
def same_page(one_page):
    """Put the plan back: for tests that move boundaries only, as a load takes longer than they."""
    from browser import back_to_suggestion

    back_to_suggestion(one_page)
    return one_page
