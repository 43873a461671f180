"""Change the update before it is sent: heuristics without a guarantee."""
