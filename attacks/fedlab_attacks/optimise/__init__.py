"""The machinery of attacks that optimise: what is varied, what is matched, what is assumed, and how."""
