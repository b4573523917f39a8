"""Choose the device and the precision that a model runs in, and name the device in words."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import StudioError, plain_memory_errors
from ..memory import free_memory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str = "auto") -> torch.device:
    """Return a torch device by its name; "auto" takes CUDA where there is one.

    Raises StudioError for a device that is not there or cannot compute.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        if chosen.type == "cpu" and chosen.index:
            raise RuntimeError("there is one CPU device, whatever its number of cores")
        with plain_memory_errors():  # a full card is there
            two = torch.empty(1, device=chosen).fill_(1) + 1
            if two.item() != 2:  # "meta" has no numbers to give
                raise RuntimeError("it does not add up")
    except StudioError:
        raise
    except Exception as err:  # a device of another kind fails in the way of its own library
        raise StudioError(
            f"The device {device!r} cannot be used here; this machine has"
            f" {'CUDA and ' if torch.cuda.is_available() else 'only '}cpu."
        ) from err
    # tensors say "cpu" of "cpu:0" too
    return torch.device("cpu") if chosen.type == "cpu" else chosen


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return a precision by its name; None and "auto" take fp32 on a CPU, bf16 on CUDA.

    Raises StudioError for anything but fp32, fp16 and bf16.
    """
    if dtype is None or dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise StudioError(
            f"{dtype!r} is not a precision to load a model in; choose one of auto,"
            f" {', '.join(DTYPES)}."
        )
    return chosen


def full_precision() -> None:
    """Let fp32 mean fp32 on CUDA from now on, in products and convolutions.

    There they would otherwise round inputs to TF32, 10 bits of mantissa, by default in
    convolutions. Faster precisions are asked for by name (bf16, fp16).
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def device_text(device: torch.device) -> str:
    """Return the name of the device that a timing was taken on, in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} (CUDA)"
    threads = torch.get_num_threads()
    return f"CPU ({cpu_name()}, {threads} thread{'' if threads == 1 else 's'})"


@dataclass(frozen=True)
class DeviceFacts:
    """What was found of a device."""

    name: str  # in words, as `device_text`
    capability: tuple[int, int] | None  # CUDA's compute capability
    free: int | None  # bytes of memory, at this moment
    total: int | None


def device_facts(device: torch.device) -> DeviceFacts:
    """Return what is found of a device now. What cannot be read is None."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        capability = torch.cuda.get_device_capability(device)
        return DeviceFacts(device_text(device), capability, free, total)
    return DeviceFacts(device_text(device), None, free_memory(device), None)


def no_cuda() -> str:
    """Return why no CUDA device can be used, in words; empty where one can."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    if not torch.cuda.device_count():
        return "no CUDA device was found"
    return "the driver of the CUDA device does not answer"


def cpu_name() -> str:
    """Return the name of the processor, where the system has it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
