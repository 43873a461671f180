"""What fedlab costs beside its peers: `make bench-runtime` runs all, docs/benchmarks.md shows the results.

One file per row of the table, `python -m benchmarks.NAME` from the repository's root. The sides that
compete (`benchmarks.sides`) are processes of their own, peers in a virtual environment of their own;
they take turns on the same machine, so that a ratio means something where an absolute number does
not.
"""
