"""Attacks that optimise, as short recipes: an objective, priors, variables, an optimiser, a start."""
