"""A Flower app with the older NumPyClient API."""
