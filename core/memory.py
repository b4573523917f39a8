"""Measure how much memory is free on a device, within the limit of a container."""

from __future__ import annotations

from pathlib import Path

import torch

NO_LIMIT = 2**60  # version 1 of control groups writes a huge number for "no limit"
# folder, limit, use and reclaimable page cache of version 2 and of version 1 (kernel documentation,
# admin-guide/cgroup-v2 and cgroup-v1/memory)
CGROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def free_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Return the free bytes of a device, within the limit of a container.

    None where the system gives no number. root: of /proc and /sys.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    available = _facts(root / "proc" / "meminfo").get("MemAvailable:")
    rooms = [
        None if available is None else 1024 * available,
        *(_container_room(root / folder, *files) for folder, *files in CGROUPS),
    ]
    return min((room for room in rooms if room is not None), default=None)


def _container_room(folder: Path, limit: str, used: str, idle: str) -> int | None:
    """Return the bytes that a control group may still take; None without a limit.

    Its use counts the page cache, whose `idle` part is given up when needed.
    """
    try:
        most, now = int((folder / limit).read_text()), int((folder / used).read_text())
    except (OSError, ValueError):  # no such files, or "max"
        return None
    if most >= NO_LIMIT:
        return None
    return max(0, most - max(0, now - _facts(folder / "memory.stat").get(idle, 0)))


def _facts(path: Path) -> dict[str, int]:
    """Return lines of a name and a whole number; none where the file cannot be read."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
