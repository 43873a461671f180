"""One module per row of the table; each prints its result and exits 1 when its bar is missed."""
