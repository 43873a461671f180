"""What one GPU does: cohorts of the shape that pfl-research publishes, and attacks; absolute figures.

`python -m benchmarks.gpu`. Needs torch, numpy, scipy, pydantic, safetensors and flwr; neither Ray nor Opacus.
"""
