"""Run `python -m core.bench`: speed, studies and their table.

`sources` is for calibration data, `front` for solvers, guidance and reuse.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["sources"]:
        from .sources import main

        del sys.argv[1]
    elif sys.argv[1:2] == ["front"]:
        from .front import main

        del sys.argv[1]
    else:
        from .studies import main
    main()
