"""`python -m fedlab.cli.leashed run ...`: the command line for whoever started it, and no longer."""

from __future__ import annotations

import sys

from fedlab.cli import main
from fedlab.leash import hold

if __name__ == "__main__":
    hold()
    main(sys.argv[1:])
