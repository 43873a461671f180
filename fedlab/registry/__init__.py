"""Runs that lie on this machine: what they are, what is said of them, where else their figures go."""
