"""A Flower app whose clients use momentum for two local epochs."""
