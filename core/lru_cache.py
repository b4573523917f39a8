"""Keep the values that were used last, by key."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """The values that were used last, by key. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def find(self, key: Key) -> Value | None:
        """Return a kept value and mark it as used, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def values(self) -> list[Value]:
        """Return all kept values, the one that was used longest ago first."""
        with self._lock:
            return list(self._values.values())

    def keep(self, key: Key, value: Value, most: int) -> None:
        """Keep a value, and drop the values used longest ago until at most `most` are left."""
        with self._lock:
            self._values[key] = value
            while len(self._values) > most:
                self._values.popitem(last=False)
