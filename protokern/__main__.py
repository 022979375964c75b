"""`python -m protokern`: the same as the command `protokern`."""

from __future__ import annotations

import sys

from protokern.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
