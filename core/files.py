"""Files that are there whole or not at all, and safetensors written tensor by tensor.

A safetensors file is an 8-byte little-endian length, a JSON header with the type, shape and place
of every tensor, then their bytes (format section of the safetensors README). Types and shapes alone
fix the header, so the tensors can follow one by one as they are worked out, and gigabytes of them
never lie in memory together.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

# name, type and shape of each tensor, in the order of the file
Layout = Sequence[tuple[str, torch.dtype, tuple[int, ...]]]
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write(part)` make a file beside `path` (its folder is made too), flush it to the disk,
    then move it into place.

    Whatever `write` or the disk raises comes through after the half-written file is gone; an older
    file at `path` stays as it was.
    """
    # two writers at once do not meet
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:  # a keyboard interrupt leaves nothing behind either
        with suppress(OSError):
            part.unlink()
        raise


def full_disk(err: BaseException) -> bool:
    """Whether a write failed for want of room (safetensors wraps the OSError in an error of its
    own, with the words kept).
    """
    return (
        getattr(err, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        or "no space left" in str(err).lower()
    )


def why_not_written(err: BaseException) -> str:
    """Say in a few plain words why something could not be written, as the system or safetensors'
    own error has it.
    """
    if full_disk(err):
        return "the disk is full"
    code, said = getattr(err, "errno", None), str(err).lower()
    # safetensors keeps the system's number only there
    found = re.search(r"\(os error (\d+)\)", said)
    code = int(found[1]) if code is None and found else code
    words = {
        errno.EROFS: "the disk is read-only",
        errno.EACCES: "permission denied: it is read-only or somebody else's",
        errno.EPERM: "permission denied: it is read-only or somebody else's",
        errno.ENOENT: "there is no such folder",
        errno.ENOTDIR: "a file lies where a folder is needed",
        errno.EEXIST: "a file lies where a folder is needed",
        errno.EISDIR: "a folder lies where a file is needed",
        errno.ENAMETOOLONG: "the name is too long",
        errno.ELOOP: "links lead in a circle",
    }
    return words.get(code) or getattr(err, "strerror", None) or str(err)


def cache_trouble(err: BaseException) -> str:
    """Say why the cache could not be written, and what helps: another remedy for a full disk than
    for a folder that is read-only.
    """
    if full_disk(err):
        return (
            "the disk is full): make room or set MOSAIC_CACHE to another disk, then calibrate again"
        )
    if isinstance(err, IsADirectoryError):
        return f"{why_not_written(err)}): move it away to make room, then calibrate again"
    return (
        f"{why_not_written(err)}): set MOSAIC_CACHE to a folder that can be written, or let this"
        " one be written, then calibrate again"
    )


def write_tensors(
    path: Path, layout: Layout, tensors: Iterable[Tensor], metadata: dict[str, str] | None = None
) -> None:
    """A safetensors file, whole or not at all, from tensors that are asked for one at a time, on
    any device, in the order of `layout`.

    Raises ValueError when a tensor is not what the layout says, OSError when the disk cannot take
    it, and what `tensors` raises.
    """
    header = _header(layout, metadata)

    def write(part: Path) -> None:
        with part.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for (name, dtype, shape), tensor in zip(layout, tensors, strict=True):
                if tensor.dtype != dtype or tuple(tensor.shape) != tuple(shape):
                    raise ValueError(
                        f"{name} is {tensor.dtype} {tuple(tensor.shape)}, announced was {dtype}"
                        f" {tuple(shape)}."
                    )
                file.write(
                    tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
                )
                del tensor  # gone before the next one is made

    write_whole(path, write)


def _header(layout: Layout, metadata: dict[str, str] | None) -> bytes:
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, dtype, shape in layout:
        start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        if name in entries or start % dtype.itemsize:
            raise ValueError(
                f"{name} comes twice or starts at a byte that is no multiple of its"
                f" {dtype.itemsize}: put wide types first."
            )
        entries[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    return text + b" " * (-len(text) % 8)  # the data start at a multiple of eight


def read_layout(path: Path) -> Layout:
    """Names, types and shapes in a safetensors file, in the file's order, from its header and size
    alone: no tensor is read.

    Raises OSError when it cannot be opened and ValueError when the header is damaged or the file is
    not as long as it says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise ValueError("the header is cut off")
        header = json.loads(file.read(length))
    types = {name: dtype for dtype, name in DTYPES.items()}
    try:
        entries = sorted(
            (*e["data_offsets"], name, types[e["dtype"]], tuple(e["shape"]))
            for name, e in header.items()
            if name != "__metadata__"
        )
    except (AttributeError, KeyError, TypeError) as err:
        raise ValueError("the header is not one of safetensors") from err
    end = entries[-1][1] if entries else 0
    if size != 8 + length + end:
        raise ValueError(f"it has {size} bytes and should have {8 + length + end}")
    return [entry[2:] for entry in entries]
