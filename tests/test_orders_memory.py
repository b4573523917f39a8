"""What ordering one wide layer takes in memory, measured, and that it stays within what a
calibration says it needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from layers import upper
from test_grams import dit_xl

from core.calibration.bank import GramBank
from core.calibration.preflight import calibration_memory
from core.calibration.settings import CalibrationSettings
from core.models.layers import PrunableLayer

ROOT = Path(__file__).resolve().parent.parent
# half of a DiT-XL/2 MLP, outputs in proportion; wide enough to be searched in float32 as that is
WIDTH = 2304
PEAK = 6.5  # float64 matrices n x n beside the model, from reading core.orders: see the test
SETTINGS = CalibrationSettings(edges=(0, 1000), images=2, held_out=1)
MEASURE = """
import sys, torch
from pathlib import Path
from torch import nn
from core.calibration.settings import CalibrationSettings
from core.calibration.bank import GramBank
from core.pruning.orders import find_orders
from core.models.layers import PrunableLayer

def now(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))

def ordered(folder, n):
    model = nn.ModuleDict({"m": nn.Linear(n, n // 4)})
    layer = PrunableLayer("neurons", 0, "neurons", "", "m", n, 1, 1, 1)
    settings = CalibrationSettings(edges=(0, 1000), images=2, held_out=1)
    bank = GramBank(Path(folder), [layer], settings)
    before = now("VmRSS:")
    found = find_orders(model, [layer], bank, "here")
    return now("VmHWM:") - before, found.rungs

torch.manual_seed(0)
ordered(sys.argv[1], 192)  # what the libraries themselves take
print(*ordered(sys.argv[2], int(sys.argv[3])))
"""


def stored(folder: Path, n: int) -> Path:
    """A bank of one layer and one bin, from twice as many tokens as columns."""
    bank = GramBank(folder, [PrunableLayer("neurons", 0, "neurons", "", "m", n, 1, 1, 1)], SETTINGS)
    random = torch.Generator().manual_seed(0)

    def tensors():
        for rows, images in ((2 * n, SETTINGS.images), (n, SETTINGS.held_out)):
            x = torch.randn(rows, n, generator=random)
            yield upper(x.T @ x)
            yield x.sum(0)
            yield torch.tensor([rows], dtype=torch.int32)
            yield torch.zeros(2 * images, dtype=torch.int32)
            yield torch.zeros(2 * images, dtype=torch.int32)

    bank.write(0, tensors())
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ordering_a_wide_layer_takes_a_handful_of_matrices_of_its_size(tmp_path):
    """The most is held while a bin's curve is worked out: the bin's Gram and the path's copy of it,
    the factor, the scores (a quarter), and two more of their size (the Gram gathered in the order,
    then what is solved from it). That is 5.25; tiles, the mapped file and libraries come on top.
    For a DiT-XL/2 MLP the bound is 1.1 GB, less than what a calibration of that model checks for
    before it starts.
    """
    few, many = stored(tmp_path / "few", 192), stored(tmp_path / "many", WIDTH)
    # what is freed is given back
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "MALLOC_MMAP_THRESHOLD_": "1000000",
    }
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, few, many, str(WIDTH)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    peak, rungs = done.stdout.split(maxsplit=1)
    assert rungs.strip() == "[['plain', 'plain']]"  # the ladder of failures was not climbed
    assert 4 < int(peak) / (8 * WIDTH**2) < PEAK
    layers = dit_xl()
    assert PEAK * 8 * max(layer.width for layer in layers) ** 2 < calibration_memory(layers)
