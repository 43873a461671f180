"""Clients that do not do what they are told: poisoned data and poisoned updates."""
