"""Finding removal orders: stopped and resumed to the same bits, nothing stale taken up, one damping
for all on request.
"""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.calibration.bank import GramBank
from core.errors import Stopped, StudioError
from core.pruning.obs import DAMPINGS, RemovalPath
from core.pruning.orders import RemovalOrders, find_orders
from core.workshop.workshop import Workshop


@pytest.fixture
def bank(workshop, tmp_path) -> GramBank:
    """The workshop's own bins, copied, with nothing ordered yet."""
    for path in workshop.folder.glob("bin-*"):
        shutil.copy2(path, tmp_path)
    return GramBank(tmp_path, workshop.layers, workshop.settings)


def same(a: RemovalOrders, b: RemovalOrders) -> bool:
    pairs = [
        pair
        for name in ("order", "errors", "energy")
        for pair in zip(getattr(a, name), getattr(b, name), strict=True)
    ]
    return all(torch.equal(x, y) for x, y in pairs) and (
        a.damping,
        a.steps,
        a.tokens_per_column,
        a.rungs,
    ) == (b.damping, b.steps, b.tokens_per_column, b.rungs)


def kept(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in sorted(folder.glob("ordered-*"))}


def stopped_after(workshop, bank: GramBank, layers: int, **more) -> dict[str, int]:
    stop = threading.Event()

    def progress(done: int, total: int, text: str) -> None:
        if done == layers:
            stop.set()

    with pytest.raises(Stopped, match=f"all bins and {layers} of 4 layers are kept"):
        find_orders(workshop.transformer, workshop.layers, bank, "here", progress, stop, **more)
    return kept(bank.folder)


def test_a_stopped_run_goes_on_to_the_same_orders(workshop, bank):
    first = stopped_after(workshop, bank, 2)
    assert list(first) == ["ordered-000.safetensors", "ordered-001.safetensors"]
    resumed = find_orders(workshop.transformer, workshop.layers, bank, "here")
    assert {name: kept(bank.folder)[name] for name in first} == first  # taken up, not found again
    for path in bank.folder.glob("ordered-*"):
        path.unlink()
    assert same(resumed, find_orders(workshop.transformer, workshop.layers, bank, "here"))
    assert len(kept(bank.folder)) == 4
    resumed.save(bank.folder)
    assert not kept(bank.folder)  # the result is saved, so its parts go
    loaded = RemovalOrders.load(bank.folder, workshop.layers)
    assert all(torch.equal(a, b) for a, b in zip(loaded.order, resumed.order, strict=True))
    assert (loaded.damping, loaded.rungs) == (resumed.damping, resumed.rungs)


def test_layers_of_other_bins_another_damping_or_other_weights_are_found_again(workshop, bank):
    chosen = find_orders(workshop.transformer, workshop.layers, bank, "here")
    before = kept(bank.folder)
    one = find_orders(workshop.transformer, workshop.layers, bank, "here", damping=0.05)
    assert one.damping == [0.05] * 4 and not same(one, chosen)
    # damping is for the compensation
    assert all(torch.equal(a, b) for a, b in zip(one.order, chosen.order, strict=True))
    assert kept(bank.folder).items() > before.items()  # the default's layers are kept beside these
    for path in bank.folder.glob("ordered-0*"):
        path.unlink()
    before = kept(bank.folder)
    assert len(before) == 4
    bank.path(0).touch()
    find_orders(workshop.transformer, workshop.layers, bank, "here", damping=0.05)
    assert all(kept(bank.folder)[name] != time for name, time in before.items())
    weight = workshop.transformer.get_submodule(workshop.layers[0].consumer).weight
    other = {workshop.layers[0].consumer: torch.nn.Linear(*weight.shape[::-1])}
    before = kept(bank.folder)
    find_orders(Swapped(workshop.transformer, other), workshop.layers, bank, "here", damping=0.05)
    assert [kept(bank.folder)[name] != time for name, time in before.items()] == [
        True,
        False,
        False,
        False,
    ]


class Swapped:
    """The model with other modules at some places."""

    def __init__(self, model: torch.nn.Module, others: dict[str, torch.nn.Module]):
        self.model, self.others = model, others

    def get_submodule(self, name: str) -> torch.nn.Module:
        return self.others.get(name) or self.model.get_submodule(name)


def test_a_damaged_finished_layer_is_found_again(workshop, bank):
    whole = find_orders(workshop.transformer, workshop.layers, bank, "here")
    for name, content in (("ordered-000", b""), ("ordered-001", None), ("ordered-003", b"x" * 200)):
        path = bank.folder / f"{name}.safetensors"
        path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    assert same(find_orders(workshop.transformer, workshop.layers, bank, "here"), whole)


def test_the_numbers_are_those_of_a_removal_path(workshop, bank):
    orders = find_orders(workshop.transformer, workshop.layers, bank, "here", damping=0.02)
    edges = bank.settings.edges
    for i, layer in enumerate(workshop.layers):
        weight = workshop.transformer.get_submodule(layer.consumer).weight.float()
        assert torch.equal(
            orders.order[i],
            RemovalPath.from_gram(
                weight, bank.gram(i, 0, 1000)[0].to(weight.device), layer.group_size, 1e-3
            ).order,
        )
        for b, span in enumerate(zip(edges, edges[1:], strict=False)):
            gram, tokens = bank.gram(i, *span)
            gram = gram.to(weight.device)
            gone = layer.groups // 2 // layer.step
            cut = (
                RemovalPath.from_order(weight, gram, orders.order[i], layer.group_size, 0.02)
                .weights_at(gone * layer.step)
                .double()
                - weight.double()
            )
            assert orders.errors[i][b, gone] == pytest.approx(
                float(((cut @ gram) * cut).sum()), rel=1e-3
            )
            assert orders.energy[i][b] == pytest.approx(
                float(((weight.double() @ gram) * weight.double()).sum()), rel=1e-9
            )
    assert orders.tokens_per_column == 32 * 2 * 16 / 256


def test_without_one_for_all_each_layer_chooses_its_own_damping(workshop, bank):
    assert set(find_orders(workshop.transformer, workshop.layers, bank, "here").damping) <= set(
        DAMPINGS
    )


def test_every_layer_is_reported_once_when_layers_are_narrow(workshop, bank):
    seen = []
    find_orders(workshop.transformer, workshop.layers, bank, "here", lambda *a: seen.append(a))
    assert seen == [
        (i, 4, f"finding the removal order of {layer.name}")
        for i, layer in enumerate(workshop.layers)
    ]


def test_another_damping_measures_nothing_again(workshop, tmp_path):
    """What `prune` advises where tokens are scarce, a larger --damping, reads the bins that are
    there; so does the weighting by timestep.
    """
    first = Workshop(workshop.checkpoint, workshop.settings, tmp_path)
    first.calibrate()
    written = {path: path.stat().st_mtime_ns for path in first.folder.glob("bin-*")}
    assert len(written) == first.settings.bins
    orders = []
    for changes in ({"damping": 0.5}, {"weighting": "timestep"}):
        other = Workshop(workshop.checkpoint, replace(workshop.settings, **changes), tmp_path)
        assert other.folder == first.folder and not other.calibrated
        other.calibrate()
        orders.append(other.orders)
        assert other.calibrated and first.calibrated
    assert {path: path.stat().st_mtime_ns for path in first.folder.glob("bin-*")} == written
    assert (
        orders[0].damping == [0.5] * len(workshop.layers)
        and first.orders.damping == workshop.orders.damping
    )
    with_bins = find_orders(
        workshop.transformer,
        workshop.layers,
        GramBank(first.folder, workshop.layers, other.settings),
        "here",
    )
    assert all(torch.equal(a, b) for a, b in zip(with_bins.order, orders[1].order, strict=True))
    assert any(
        not torch.equal(a, b) for a, b in zip(workshop.orders.errors, orders[0].errors, strict=True)
    )
    for changes in ({"weighting": "guidance"}, {"seed": 1}, {"images": 33}):
        assert (
            Workshop(workshop.checkpoint, replace(workshop.settings, **changes), tmp_path).folder
            != first.folder
        )


def test_a_stopped_run_keeps_its_layers_beside_a_run_of_another_damping(workshop, tmp_path):
    stop, first = threading.Event(), Workshop(workshop.checkpoint, workshop.settings, tmp_path)
    with pytest.raises(Stopped, match="all bins and 2 of 4 layers are kept"):
        first.calibrate(
            lambda done, total, text: stop.set() if "(layer 3 of 4)" in text else None, stop
        )
    left = kept(first.folder)
    assert len(left) == 2
    Workshop(
        workshop.checkpoint, replace(workshop.settings, damping=0.1234567), tmp_path
    ).calibrate()
    assert kept(first.folder) == left
    assert not Workshop(
        workshop.checkpoint, replace(workshop.settings, damping=0.1234568), tmp_path
    ).calibrated
    first.calibrate()
    assert same(first.orders, workshop.orders) and not kept(first.folder)


def test_a_missing_bin_is_named(workshop, bank):
    bank.path(1).unlink()
    with pytest.raises(StudioError, match="bin-01.safetensors .*calibrate again"):
        find_orders(workshop.transformer, workshop.layers, bank, "here")


def test_orders_that_cannot_be_written_leave_the_finished_layers(workshop, bank):
    orders = find_orders(workshop.transformer, workshop.layers, bank, "here")
    (bank.folder / "orders.safetensors").mkdir()
    with pytest.raises(StudioError, match="could not be written .*make room"):
        orders.save(bank.folder)
    assert len(kept(bank.folder)) == 4 and not list(bank.folder.glob("*.part"))


def test_a_workshop_leaves_no_finished_layers_behind(workshop):
    assert not kept(workshop.folder) and RemovalOrders.exists(workshop.folder)
