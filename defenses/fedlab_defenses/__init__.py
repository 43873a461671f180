"""The built-in defenses. Each file is one defense."""
