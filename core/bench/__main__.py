"""Run `python -m core.bench`: speed, studies and their table.

`sources` is for calibration data, `front` for solvers, guidance and reuse, `halves` for stages
without guidance, `searches` for the tuner against other ways to find a plan.
"""

from __future__ import annotations

import sys
from importlib import import_module

OWN = ("sources", "front", "halves", "searches")  # have a command line of their own

if __name__ == "__main__":
    name = "studies"
    if sys.argv[1:2] and sys.argv[1] in OWN:
        name = sys.argv.pop(1)
    import_module(f".{name}", __package__).main()
