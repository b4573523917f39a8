"""Writing bins in the background: nothing lost, nothing half-written, no error swallowed."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_calibration import TINY, everything, run
from torch import Tensor

from core.calibration import bank as bank_module
from core.calibration.background import BinWriter, Later, spare_memory
from core.calibration.bank import GramBank
from core.calibration.packed_gram import GramSum
from core.errors import Stopped, StudioError
from core.files import write_tensors

PLENTY = 10**9


@pytest.fixture(scope="module")
def whole(workshop, tmp_path_factory) -> list[Tensor]:
    """The Grams of an undisturbed run that waits for the disk."""
    return everything(run(workshop, tmp_path_factory.mktemp("whole"), ahead=0))


def same(bank: GramBank, whole: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(everything(bank), whole, strict=True))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "settings.json")


def test_bins_in_memory_are_read_without_the_disk(workshop, tmp_path, whole):
    bank = run(workshop, tmp_path, ahead=PLENTY)
    assert same(GramBank(tmp_path, workshop.layers, TINY), whole)  # from the files
    for b in range(TINY.bins):
        bank.path(b).rename(tmp_path / f"away-{b}")
    assert same(bank, whole) and torch.equal(bank.rows(0)["label"], bank.rows(0)["label"])
    bank.forget()
    with pytest.raises(StudioError, match="cannot be read"):
        bank.gram(0, 0, 1000)


def test_only_what_fits_stays_in_memory(workshop, tmp_path, whole):
    one = sum(
        d.itemsize * torch.Size(s).numel()
        for _, d, s in GramBank(tmp_path, workshop.layers, TINY).layout
    )
    bank = run(workshop, tmp_path, ahead=int(1.5 * one))
    bank.path(0).unlink()
    bank.path(1).unlink()
    for place in ((0, *TINY.edges[:2]), (3, *TINY.edges[:2]), (0, *TINY.edges[1:3])):
        bank.gram(*place)
    with pytest.raises(StudioError, match="bin-01"):
        bank.gram(3, *TINY.edges[1:3], held_out=True)


def test_measuring_goes_on_while_the_disk_is_busy_and_a_stop_loses_no_whole_bin(
    workshop, tmp_path, whole, monkeypatch
):
    stop, stopping = threading.Event(), threading.Event()

    def slow(path: Path, layout, tensors) -> None:
        assert stopping.wait(60)  # nothing is written before the third bin is under way
        write_tensors(path, layout, tensors)

    monkeypatch.setattr(bank_module, "write_tensors", slow)

    def progress(done: int, total: int, text: str) -> None:
        if done == 4:
            stop.set()
            stopping.set()

    with pytest.raises(Stopped, match="2 of 3 bins are kept"):
        run(workshop, tmp_path, progress=progress, stop=stop, ahead=PLENTY)
    assert files(tmp_path) == ["bin-00.safetensors", "bin-01.safetensors"]
    times = [(tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)]
    seen = []
    resumed = run(workshop, tmp_path, progress=lambda *a: seen.append(a))
    assert seen[-1][:2] == (2, 2) and same(resumed, whole)
    assert [(tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)[:2]] == times


@pytest.mark.parametrize("ahead", [0, PLENTY])
def test_a_disk_that_fills_up_in_the_background_is_one_sentence(
    workshop, tmp_path, whole, monkeypatch, ahead
):
    def full(path: Path, layout, tensors: Iterator[Tensor]) -> None:
        def some() -> Iterator[Tensor]:
            for k, tensor in enumerate(tensors):
                if k == 5 and path.name.startswith("bin-01"):
                    raise OSError(errno.ENOSPC, "No space left on device")
                yield tensor

        write_tensors(path, layout, some())

    with monkeypatch.context() as patch, pytest.raises(StudioError, match="The disk is full: fin"):
        patch.setattr(bank_module, "write_tensors", full)
        run(workshop, tmp_path, ahead=ahead)
    assert files(tmp_path) == ["bin-00.safetensors"]
    assert same(run(workshop, tmp_path), whole)


def test_an_error_while_measuring_drops_the_unfinished_bin(workshop, tmp_path, whole):
    def fails(done: int, total: int, text: str) -> None:
        if done == 3:  # half of the second bin waits for the disk
            raise ValueError("a progress bar that breaks")

    with pytest.raises(ValueError, match="breaks"):
        run(workshop, tmp_path, progress=fails, ahead=PLENTY)
    assert files(tmp_path) == ["bin-00.safetensors"]
    assert threading.active_count() == 1 or not [
        t for t in threading.enumerate() if t.name == "bin writer"
    ]


def test_no_more_waits_than_may(workshop, tmp_path):
    """With no memory to spare, one tensor is under way at a time."""
    bank = GramBank(tmp_path, workshop.layers, TINY)
    made, written = [], []

    def tensors() -> Iterator[Tensor | Later]:
        for k, (_, dtype, shape) in enumerate(bank.layout):
            made.append(k)
            assert len(made) - len(written) <= 2
            tensor = torch.zeros(shape, dtype=dtype)

            def make(tensor: Tensor = tensor, k: int = k) -> Tensor:
                written.append(k)
                return tensor

            yield Later(make, tensor.numel() * tensor.element_size())

    with BinWriter(bank, 0) as writer:
        writer.write(0, tensors())
    assert made == written and bank.missing() == [1, 2]


def test_a_triangle_of_later_is_the_one_of_now():
    total = GramSum(5)
    x = torch.randn(7, 5)
    total.add(x, weights=torch.rand(7))
    now, later = total.triangle(), total.triangle_later()
    total.zero()
    total.add(torch.randn(7, 5), weights=torch.rand(7))
    assert torch.equal(later(), now)


def test_spare_memory_is_what_a_calibration_leaves(workshop):
    assert spare_memory(workshop.layers, torch.device("cpu")) >= 0
