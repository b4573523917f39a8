"""A calibration that is killed, not stopped.

Finished bins stay, half-written files are not trusted, and the result is the same.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from forked import Forked
from safetensors import safe_open

from core.calibration.settings import CalibrationSettings
from core.models.checkpoints import load_checkpoint
from core.workshop.workshop import Workshop

TINY = CalibrationSettings(edges=(0, 200, 500, 1000), images=6, held_out=2)
CHILD = """
import sys, threading, time
from pathlib import Path
import torch
from core.calibration.settings import CalibrationSettings
from core.models.checkpoints import load_checkpoint
from core.workshop.workshop import Workshop

model, cache, where, least, whole, edges, images, held_out = sys.argv[1:]
settings = CalibrationSettings(tuple(map(int, edges.split(","))), int(images), int(held_out))

seen = []

def progress(done, total, text):
    seen.append(text.startswith(where))
    if sum(seen) >= int(least):
        while len(list(Path(cache).rglob("bin-??.safetensors"))) < int(whole):
            time.sleep(0.01)  # bins are written in the background
        print(sum(seen), flush=True)
        threading.Event().wait()

Workshop(load_checkpoint(model, "cpu", dtype=torch.float32), settings, cache).calibrate(progress)
"""


def kill_at(where: str, least: int, whole: int, model: Path, cache: Path) -> None:
    """Calibrate in another process and kill it.

    The process waits as soon as its progress says `where` for the `least`th time, with the files of
    `whole` bins on the disk.
    """
    arguments = [
        model,
        cache,
        where,
        str(least),
        str(whole),
        ",".join(map(str, TINY.edges)),
        str(TINY.images),
        str(TINY.held_out),
    ]
    child = Forked(CHILD, *arguments)
    try:
        said = child.stdout.readline()  # nothing when it ends without having come there
    finally:
        child.kill()
    errors = child.communicate()[1]
    assert said == f"{least}\n" and child.returncode == -signal.SIGKILL, errors


def open_workshop(model: Path, cache: Path) -> Workshop:
    return Workshop(load_checkpoint(model, "cpu", dtype=torch.float32), TINY, cache)


def written(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.glob("*.safetensors")}


@pytest.fixture(scope="module")
def whole(model_folder, tmp_path_factory) -> Workshop:
    """Never interrupted."""
    shop = open_workshop(model_folder, tmp_path_factory.mktemp("whole"))
    shop.calibrate()
    return shop


def assert_same_end(shop: Workshop, whole: Workshop) -> None:
    """Bins byte for byte, orders bit for bit; nothing else is left."""
    bins = [f"bin-{b:02d}.safetensors" for b in range(TINY.bins)]
    assert sorted(p.name for p in shop.folder.iterdir()) == [
        *bins,
        "orders.safetensors",
        "settings.json",
    ]
    assert all(
        (shop.folder / name).read_bytes() == (whole.folder / name).read_bytes() for name in bins
    )
    with (
        safe_open(shop.folder / "orders.safetensors", "pt") as one,
        safe_open(whole.folder / "orders.safetensors", "pt") as other,
    ):
        assert sorted(one.keys()) == sorted(other.keys())
        assert all(torch.equal(one.get_tensor(name), other.get_tensor(name)) for name in one.keys())  # noqa: SIM118
    assert shop.orders.damping == whole.orders.damping and shop.orders.rungs == whole.orders.rungs


def test_killed_inside_the_second_bin(model_folder, whole, tmp_path):
    # two chunks a bin: the second bin's file is begun in the background, and not whole
    kill_at("measuring the model at timesteps 200 to 499", 2, 1, model_folder, tmp_path)
    shop = open_workshop(model_folder, tmp_path)
    before = written(shop.folder)
    assert list(before) == ["bin-00.safetensors"] and shop.bins_kept == 1 and not shop.calibrated
    for half in shop.folder.glob("*.part"):  # that process had no chance to take it away
        assert half.name.startswith("bin-01")
        # long ago, so that it is no longer taken for the file of a run that goes on
        os.utime(half, (0, 0))
    measured = []
    shop.calibrate(
        lambda done, total, text: (
            measured.append(text.split(";")[0]) if text.startswith("measuring") else None
        )
    )
    assert (
        measured
        == ["measuring the model at timesteps 200 to 499"] * 2
        + ["measuring the model at timesteps 500 to 999"] * 2
    )
    assert written(shop.folder).items() >= before.items()
    assert_same_end(shop, whole)


def test_killed_while_ordering_the_third_layer(model_folder, whole, tmp_path):
    third = f"finding what can go first in {whole.layers[2].name}"
    kill_at(third, 1, TINY.bins, model_folder, tmp_path)
    shop = open_workshop(model_folder, tmp_path)
    before, then, texts = written(shop.folder), {}, []
    assert sorted(before) == [f"bin-{b:02d}.safetensors" for b in range(TINY.bins)] + [
        "ordered-000.safetensors",
        "ordered-001.safetensors",
    ]
    assert not shop.calibrated

    def progress(done: int, total: int, text: str) -> None:
        texts.append(text)
        if text.startswith(third):
            then.update(written(shop.folder))

    shop.calibrate(progress)
    # neither bins nor the first two layers came anew
    assert then == before and not any(text.startswith("measuring") for text in texts)
    assert_same_end(shop, whole)
