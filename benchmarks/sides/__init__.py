"""The sides that compete: fedlab, its peers, and a bare loop, one process each, doing the same work."""
