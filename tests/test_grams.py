"""The store of a calibration: sound and damaged files, what it takes in memory and on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from layers import upper

from core.calibration.bank import GramBank
from core.calibration.packed_gram import unpack
from core.calibration.preflight import calibration_disk, calibration_memory
from core.calibration.settings import CalibrationSettings
from core.models.layers import PrunableLayer

SETTINGS = CalibrationSettings(edges=(0, 400, 1000), images=3, held_out=2)
LAYERS = [
    PrunableLayer("heads", 0, "heads", "", "a", 3, 4, 1, 1),
    PrunableLayer("neurons", 0, "neurons", "", "b", 30, 1, 1, 1),
]


def contents(bank: GramBank, seed: int) -> list[torch.Tensor]:
    """Tensors as the layout of a bank asks for them, random."""
    random = torch.Generator().manual_seed(seed)
    made = []
    for name, dtype, shape in bank.layout:
        made.append(
            torch.randn(shape, generator=random)
            if dtype.is_floating_point
            else torch.full(shape, 7 + ("held" in name), dtype=dtype)
        )
    return made


@pytest.fixture
def bank(tmp_path) -> GramBank:
    made = GramBank(tmp_path, LAYERS, SETTINGS)
    for b in range(2):
        made.write(b, iter(contents(made, b)))
    return made


def test_what_is_written_is_read(bank):
    names = [name for name, *_ in bank.layout]
    for b, span in enumerate(((0, 400), (400, 1000))):
        written = dict(zip(names, contents(bank, b), strict=True))
        for i in range(2):
            for kind, held_out in (("fit", False), ("held_out", True)):
                gram, tokens = bank.gram(i, *span, held_out)
                assert (
                    gram.dtype == torch.float64
                    and torch.equal(gram, gram.T)
                    and tokens == 7 + held_out
                )
                assert torch.equal(upper(gram).float(), written[f"{kind}/{i}"])
                assert torch.equal(
                    bank.gram(i, *span, held_out, dtype=torch.float32)[0], gram.float()
                )
                assert torch.equal(
                    bank.mean(i, *span, held_out), written[f"sum/{kind}/{i}"].double() / tokens
                )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_a_gram_has_the_same_bits_on_every_device_packed_until_it_is_there(
    bank, device, monkeypatch
):
    """Bins count whole and in part, so that sums and products round."""
    unpacked = []

    def watched(triangle, dtype):
        unpacked.append((triangle.device.type, triangle.ndim))
        return unpack(triangle, dtype)

    monkeypatch.setattr("core.calibration.bank.unpack", watched)
    names = [name for name, *_ in bank.layout]
    first, second = (dict(zip(names, contents(bank, b), strict=True)) for b in range(2))
    for i, dtype in ((0, torch.float64), (1, torch.float64), (1, torch.float32)):
        gram, _ = bank.gram(i, 100, 900, dtype=dtype, device=device)
        shares = [first[f"fit/{i}"].to(dtype) * 0.75, second[f"fit/{i}"].to(dtype) * (500 / 600)]
        assert gram.device.type == device and gram.dtype == dtype
        assert torch.equal(upper(gram.cpu()), shares[0] + shares[1])
        assert torch.equal(gram, gram.T)
    assert unpacked == [(device, 1)] * 3


def test_asking_twice_gives_the_same(bank):
    """The sum over bins is worked out in a copy, never in what is mapped from the file."""
    for dtype in (torch.float64, torch.float32):
        assert torch.equal(
            bank.gram(1, 100, 900, dtype=dtype)[0], bank.gram(1, 100, 900, dtype=dtype)[0]
        )


def test_check_keeps_sound_files_and_drops_damaged_ones(bank):
    bank.check()
    assert bank.complete
    good = bank.path(1).read_bytes()
    for damaged in (good[:-1], good[:100], b"", good + b"0"):
        bank.path(1).write_bytes(damaged)
        bank.check()
        assert bank.missing() == [1]


def test_check_drops_files_of_other_layers_and_settings(bank):
    for layers, settings in (
        ([LAYERS[0], replace(LAYERS[1], groups=31)], SETTINGS),
        (LAYERS[:1], SETTINGS),
        (LAYERS, replace(SETTINGS, images=4)),
    ):
        copy = bank.path(0).read_bytes()
        other = GramBank(bank.folder, layers, settings)
        other.check()
        assert 0 in other.missing()
        bank.path(0).write_bytes(copy)


# ------------------------------------------------------------ how much it takes


def dit_xl() -> list[PrunableLayer]:
    return [
        x
        for i in range(28)
        for x in (
            PrunableLayer("h", i, "heads", "", "a", 16, 72, 1, 1),
            PrunableLayer("n", i, "neurons", "", "b", 4608, 1, 1, 1),
        )
    ]


def test_dit_xl_fits():
    """A calibration of DiT-XL/2 fits in 3 GB beside the model.

    Full fp32 Grams take 2.53 GB per bin; the number of bins does not matter.
    """
    layers = dit_xl()
    assert sum(4 * layer.width**2 for layer in layers) == pytest.approx(2.53e9, rel=0.01)
    assert calibration_memory(layers) < 1.8e9
    ten = CalibrationSettings(edges=tuple(range(0, 1001, 100)))
    # both halves, as triangles
    assert calibration_disk(layers, ten) == pytest.approx(2 * 10 * 2.53e9 / 2, rel=0.01)


MEASURE = """
import sys, torch
from pathlib import Path
from torch import nn
from core.calibration.settings import CalibrationSettings
from core.calibration.measure import GramMeter
from core.calibration.preflight import calibration_memory
from core.calibration.bank import GramBank
from core.models.layers import PrunableLayer

def peak():
    # ru_maxrss would start from the parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

width, count = 2048, 10
model = nn.ModuleDict({f"m{i}": nn.Linear(width, 1) for i in range(count)})
layers = [PrunableLayer("neurons", i, "neurons", "", f"m{i}", width, 1, 1, 1) for i in range(count)]
settings = CalibrationSettings(edges=(0, 1000), images=2, held_out=1)
bank = GramBank(Path(sys.argv[1]), layers, settings)
x = torch.randn(2, 8, width)
x.flatten(0, 1).T @ x.flatten(0, 1)  # what the library itself takes for a product
before = peak()

def measure():
    for kind, rows in (("fit", 4), ("held_out", 2)):
        meter.begin(rows, settings, 0)
        with meter, torch.no_grad():
            for module in model.values():
                module(x)
        yield from meter.results()
        yield torch.zeros(rows, dtype=torch.int32)
        yield torch.zeros(rows, dtype=torch.int32)

meter = GramMeter(model, layers)
bank.write(0, measure())
written = peak()
for i in range(count):
    bank.gram(i, 0, 1000)
sums = count * 4 * width * width
size = bank.path(0).stat().st_size
print(written - before, peak() - before, calibration_memory(layers), sums, size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_measuring_and_reading_never_hold_what_lies_on_the_disk(tmp_path):
    """Ten layers, 168 MB of full Grams, are measured with one set of stripes (94 MB).

    A layer on its way to the disk comes on top; no second copy of the Grams is made.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    writing, both, bound, full, size = map(int, done.stdout.split())
    assert size > 0.99 * full  # two triangles a layer
    assert 0.4 * full < writing < full and writing < bound
    # one layer at a time is read: 8 MB mapped, 50 MB as fp64 triangle and matrix
    assert both < writing + 0.6 * full
