"""A Flower app with a strategy of its own."""
