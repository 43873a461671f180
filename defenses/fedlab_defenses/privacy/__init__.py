"""Differential privacy: noise in the clients, at the server, or on sums that nobody can open."""
