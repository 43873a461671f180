"""`python -m benchmarks.attacks [NAME ...]`: rows, then docs/attacks.md; exits 1 when a bar was missed."""

from __future__ import annotations

import sys

from benchmarks.suite import ATTACKS

if __name__ == "__main__":
    sys.exit(ATTACKS.main(sys.argv[1:]))
