"""Contract tests that any plugin author can run on a plugin of their own."""
