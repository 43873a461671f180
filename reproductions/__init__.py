"""What papers claim, at a size that a laptop manages: scenarios, bars, docs/reproductions.md."""
