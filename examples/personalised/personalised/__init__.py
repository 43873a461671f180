"""A Flower app whose clients share a body and keep their heads."""
