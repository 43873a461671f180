"""Closed forms: what linear algebra gives away, with a certificate of what it proves."""
