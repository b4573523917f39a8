"""Benchmarks and studies; `python -m core.bench --help`."""

from .._old_paths import forward

__getattr__ = forward(__name__, "bench.studies")
