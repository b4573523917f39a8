"""Remembered hashes of weights: never another hash than that of the weights in memory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file, save_file

from core.cache import network_key
from core.models import weight_hashes
from core.models.weight_hashes import FILE, WeightFiles, remembered_key

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny network on the disk."""
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        num_layers=1,
        in_channels=4,
        sample_size=4,
        num_embeds_ada_norm=10,
        norm_num_groups=4,
    )
    network.save_pretrained(tmp_path / "transformer")
    return tmp_path / "transformer"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Every hash that is worked out anew, by whether it is of rounded weights."""
    asked: list[bool] = []

    def counted(network: torch.nn.Module, rounded: bool = False) -> str:
        asked.append(rounded)
        return network_key(network, rounded)

    monkeypatch.setattr(weight_hashes, "network_key", counted)
    return asked


def loaded(folder: Path, dtype: torch.dtype = torch.float32):
    network = DiTTransformer2DModel.from_pretrained(str(folder), torch_dtype=dtype)
    files = WeightFiles.of(network)
    assert files is not None
    return network, files


def test_the_second_start_hashes_nothing(folder, tmp_path, hashed):
    for _ in range(3):
        network, files = loaded(folder)
        for rounded in (False, True):
            key = remembered_key(network, files, tmp_path / "cache", rounded)
            assert key == network_key(network, rounded)
    assert hashed == [False, True]
    half, files = loaded(folder, torch.bfloat16)
    assert remembered_key(half, files, tmp_path / "cache") == network_key(half)
    assert hashed == [False, True, False]


@pytest.mark.parametrize("change", ["weights", "time", "inode", "place", "config"])
def test_changed_files_are_hashed_anew(folder, tmp_path, hashed, change):
    remembered_key(*loaded(folder), tmp_path)
    path = folder / WEIGHTS
    stat = path.stat()
    if change == "weights":
        weights = load_file(path)
        name = sorted(weights)[0]
        weights[name].flatten()[1] += 1  # same size, same time
        save_file(weights, path)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "time":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "inode":
        shutil.copy2(path, folder / "copy")
        (folder / "copy").replace(path)
    elif change == "place":
        folder = folder.rename(folder.with_name("elsewhere"))
    else:
        (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    network, files = loaded(folder)
    assert remembered_key(network, files, tmp_path) == network_key(network)
    assert len(hashed) == 2


def test_weights_changed_in_memory_are_hashed_anew(folder, tmp_path, hashed):
    network, files = loaded(folder)
    first = remembered_key(network, files, tmp_path)
    with torch.no_grad():
        network.proj_out_2.weight[0, 1] += 1
    assert remembered_key(network, files, tmp_path) == network_key(network) != first
    other, files = loaded(folder)
    other.proj_out_2.weight.data = other.proj_out_2.weight.data + 1  # no change in place
    assert remembered_key(other, files, tmp_path) == network_key(other) != first
    assert remembered_key(other, None, tmp_path) == network_key(other)
    assert len(hashed) == 4


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', "\udcff" * 3, "[" * 100_000])
def test_a_damaged_memory_is_ignored(folder, tmp_path, hashed, content):
    (tmp_path / FILE).write_text(content, errors="surrogateescape")
    for _ in range(2):
        network, files = loaded(folder)
        assert remembered_key(network, files, tmp_path) == network_key(network)
    assert len(hashed) == 1  # and it is mended


def test_a_memory_that_cannot_be_written_is_no_error(folder, tmp_path, hashed):
    (tmp_path / "cache").write_text("a file where the folder should be")
    for _ in range(2):
        network, files = loaded(folder)
        assert remembered_key(network, files, tmp_path / "cache") == network_key(network)
    assert len(hashed) == 2
