"""Defenses and what is claimed of them, figure beside bar: `python -m benchmarks.defenses [NAME ...]`."""
