"""Write files and folders whole or not at all, and safetensors tensor by tensor.

A safetensors file is an 8-byte little-endian length, a JSON header with the type, shape and place
of every tensor, then their bytes (format section of the safetensors README). Types and shapes alone
fix the header, so the tensors can follow one by one as they are computed, and gigabytes of tensors
are never in memory together.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
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
OWNED_BY_OTHERS = "permission denied: it is read-only or somebody else's"
REASONS = {  # error number -> why a write failed
    errno.EROFS: "the disk is read-only",
    errno.EACCES: OWNED_BY_OTHERS,
    errno.EPERM: OWNED_BY_OTHERS,
    errno.ENOENT: "there is no such folder",
    errno.ENOTDIR: "a file lies where a folder is needed",
    errno.EEXIST: "a file lies where a folder is needed",
    errno.EISDIR: "a folder lies where a file is needed",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "links lead in a circle",
}


# ------------------------------------------------------------ whole or not at all


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write(part)` make a file beside `path`, flush the file, then move it to `path`.

    The folder of `path` is made too. An exception of `write` or of the disk passes after the
    half-written file is removed; an older file at `path` stays unchanged.
    """
    # process and thread in the name: two writers at once never share a part
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        flush(part)
        part.replace(path)
    except BaseException:  # a keyboard interrupt leaves nothing behind either
        with suppress(OSError):
            part.unlink()
        raise


def write_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write(part)` fill a new folder beside `folder`, flush it, then move it to `folder`.

    `folder` may exist when it is empty; a folder with content is not replaced (OSError). An
    exception of `write` or of the disk passes after the half-written folder is removed.
    """
    part = folder.with_name(f"{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
        write(part)
        for path in [*part.iterdir(), part]:
            flush(path)
        part.replace(folder)
        flush(folder.parent)
    except BaseException:  # as in `write_whole`
        shutil.rmtree(part, ignore_errors=True)
        raise


def flush(path: Path) -> None:
    """Force a file or a folder to the disk, so that a power cut after a rename loses nothing."""
    if path.is_dir():
        if os.name != "posix":
            return  # only POSIX systems can open a folder
        handle = os.open(path, os.O_RDONLY)
    else:
        handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ------------------------------------------------------------ why a write failed


def full_disk(err: BaseException) -> bool:
    """Say whether a write failed because the disk or the quota is full.

    safetensors wraps the OSError in an exception of its own and keeps only the words.
    """
    return (
        getattr(err, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        or "no space left" in str(err).lower()
    )


def why_not_written(err: BaseException) -> str:
    """Return in a few plain words why a write failed."""
    if full_disk(err):
        return "the disk is full"
    code = getattr(err, "errno", None)
    # safetensors keeps the error number of the system only in its text
    found = re.search(r"\(os error (\d+)\)", str(err).lower())
    if code is None and found:
        code = int(found[1])
    return REASONS.get(code or 0) or getattr(err, "strerror", None) or str(err)


def cache_trouble(err: BaseException) -> str:
    """Return why the cache could not be written, and what helps.

    The text closes the parenthesis that the caller opens.
    """
    if full_disk(err):
        return (
            f"{why_not_written(err)}): make room or set MOSAIC_CACHE to another disk, then"
            " calibrate again"
        )
    if isinstance(err, IsADirectoryError):
        return f"{why_not_written(err)}): move it away to make room, then calibrate again"
    return (
        f"{why_not_written(err)}): set MOSAIC_CACHE to a folder that can be written, or let this"
        " one be written, then calibrate again"
    )


# ------------------------------------------------------------ safetensors


def write_tensors(path: Path, layout: Layout, tensors: Iterable[Tensor]) -> None:
    """Write a safetensors file, whole or not at all, asking for one tensor at a time.

    `tensors` come in the order of `layout`, on any device. Raises ValueError when a tensor is not
    what the layout says, OSError when the disk cannot take it, and what `tensors` raises.
    """
    header = _header(layout)

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
                del tensor  # freed before the next one is made

    write_whole(path, write)


def _header(layout: Layout) -> bytes:
    entries: dict[str, object] = {}
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
    """Read names, types and shapes of a safetensors file, in the order of the file.

    Header and size are enough; no tensor is read. Raises OSError when the file cannot be opened and
    ValueError when the header is damaged or the file has another length than the header says.
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
