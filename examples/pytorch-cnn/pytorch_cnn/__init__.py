"""A Flower app: a small CNN learns digits."""
