"""What to do next, each with the measured rows behind it. Rules, no score.

A rule never calls anything harmless. "Consider" means: of what this run tried, this took less away, at this
price, from these attackers.
"""

from __future__ import annotations

from fedlab.report import advice_leaks, advice_proofs
from fedlab.report.advice import Findings, Row

RULES = (
    advice_proofs.faults,
    advice_leaks.certified,
    advice_leaks.taken,
    advice_leaks.secrecy,
    advice_leaks.membership,
    advice_proofs.unproved,
    advice_proofs.noise,
    advice_leaks.useless,
    advice_proofs.unfair,
    advice_proofs.thin,
    advice_proofs.pixels,
)
"""In the order of their urgency."""


def recommendations(found: Findings) -> list[Row]:
    """Each has `kind`, `title`, `text`, `evidence`, `controls` and `about` (its pool, or null)."""
    return [one for rule in RULES for one in rule(found)]
