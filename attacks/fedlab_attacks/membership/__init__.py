"""Was this record used? What a server can tell from updates."""
