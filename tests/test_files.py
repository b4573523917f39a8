"""Files are whole or not at all; damage is seen without reading a tensor.

safetensors are written tensor by tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.files import full_disk, read_layout, write_folder, write_tensors, write_whole

TENSORS = {
    "wide": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double(),
    "count": torch.tensor(7),
    "gram": torch.arange(10.0).view(2, 5).T,
    "none": torch.empty(0, 4),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "small": torch.tensor([3, -4, 5], dtype=torch.int16),
    "flags": torch.tensor([True, False, True]),
}
LAYOUT = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()]


def test_what_is_streamed_is_what_safetensors_reads(tmp_path):
    path = tmp_path / "new" / "folder" / "file.safetensors"
    write_tensors(path, LAYOUT, iter(TENSORS.values()))
    loaded = load_file(path)
    assert set(loaded) == set(TENSORS)
    assert all(
        loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
        for name, tensor in TENSORS.items()
    )
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0  # so that the data are aligned
    assert read_layout(path) == LAYOUT
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_layouts_of_files_that_safetensors_wrote(tmp_path):
    save_file(
        {name: tensor.contiguous() for name, tensor in TENSORS.items()},
        tmp_path / "file",
        metadata={"a": "b"},
    )
    assert sorted(read_layout(tmp_path / "file"), key=str) == sorted(LAYOUT, key=str)


def broken(error: BaseException) -> Iterator[torch.Tensor]:
    yield from list(TENSORS.values())[:3]
    raise error


@pytest.mark.parametrize(
    "error",
    [RuntimeError("the model failed"), KeyboardInterrupt(), OSError(28, "No space left on device")],
)
def test_a_write_that_breaks_off_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "file.safetensors"
    with pytest.raises(type(error)):
        write_tensors(path, LAYOUT, broken(error))
    assert list(tmp_path.iterdir()) == []
    write_tensors(path, LAYOUT, TENSORS.values())
    before = path.read_bytes()
    with pytest.raises(type(error)):
        write_tensors(path, LAYOUT, broken(error))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_tensors_other_than_announced_are_refused(tmp_path):
    values = list(TENSORS.values())
    for wrong in (
        values[:-1],
        [*values, values[0]],
        [values[0].float(), *values[1:]],
        [values[0].T, *values[1:]],
    ):
        with pytest.raises(ValueError):
            write_tensors(tmp_path / "file", LAYOUT, wrong)
    # twice the same name; eight bytes wide at byte 3
    for layout in ([LAYOUT[0], LAYOUT[0]], [LAYOUT[-1], LAYOUT[0]]):
        with pytest.raises(ValueError, match="put wide types first"):
            write_tensors(tmp_path / "file", layout, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage", ["cut by a byte", "too long", "header cut", "empty", "no JSON", "not a header"]
)
def test_damage_is_seen_from_header_and_size(tmp_path, damage):
    path = tmp_path / "file"
    write_tensors(path, LAYOUT, TENSORS.values())
    good = path.read_bytes()
    other = json.dumps({"wide": 3}).encode()
    path.write_bytes(
        {
            "cut by a byte": good[:-1],
            "too long": good + b"0",
            "header cut": good[:50],
            "empty": b"",
            "no JSON": good[:8] + b"x" + good[9:],
            "not a header": len(other).to_bytes(8, "little") + other,
        }[damage]
    )
    with pytest.raises(ValueError):
        read_layout(path)


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "deep" / "note.txt"

    def write(part: Path) -> None:
        part.write_text("first half, ")
        assert not path.exists() and part.parent == path.parent and part.suffix == ".part"
        with part.open("a") as file:
            file.write("second half")

    write_whole(path, write)
    assert path.read_text() == "first half, second half" and list(path.parent.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "deep" / "out"

    def write(part: Path) -> None:
        (part / "a.txt").write_text("a")
        assert not folder.exists() and part.parent == folder.parent and part.suffix == ".part"

    def fail(part: Path) -> None:
        (part / "a.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, fail)
    assert list(folder.parent.iterdir()) == []
    write_folder(folder, write)
    assert [p.name for p in folder.iterdir()] == ["a.txt"]
    with pytest.raises(OSError):  # a folder with content is never replaced
        write_folder(folder, lambda part: (part / "b.txt").write_text("b"))
    assert list(tmp_path.rglob("*.part")) == []
    assert [p.name for p in folder.iterdir()] == ["a.txt"]


def test_a_full_disk_is_told_from_other_failures():
    assert full_disk(OSError(28, "No space left on device")) and full_disk(
        RuntimeError("I/O error: No space left on device (os error 28)")
    )
    assert not full_disk(PermissionError(13, "Permission denied")) and not full_disk(
        ValueError("a namespace")
    )
