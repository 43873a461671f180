"""`python -m benchmarks.defenses [NAME ...]`: rows, then docs/defenses.md; exits 1 when a bar was missed."""

from __future__ import annotations

import sys

from benchmarks.suite import DEFENSES

if __name__ == "__main__":
    sys.exit(DEFENSES.main(sys.argv[1:]))
