"""Attacks on real images, each figure beside its bar: `python -m benchmarks.attacks [NAME ...]`."""
