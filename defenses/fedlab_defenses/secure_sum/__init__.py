"""Let the server see sums of updates, and none of them."""
