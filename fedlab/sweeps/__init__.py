"""One scenario at many settings: every cell a run of its own, one report over all of them."""
