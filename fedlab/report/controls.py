"""What a recommendation belongs to in the texts that a data protection officer works with.

Articles are those of Regulation (EU) 2016/679 (GDPR). NIST SP 800-226 is "Guidelines for Evaluating
Differential Privacy Guarantees" (2025), EDPB is Opinion 28/2024 on AI models. A reference says where a
measure is to be recorded; it is no legal advice, and none of them is met by this report alone.
"""

from __future__ import annotations

CONTROLS = {
    "minimise": "GDPR Art. 5(1)(c), data minimisation",
    "confidential": "GDPR Art. 5(1)(f), integrity and confidentiality",
    "fair": "GDPR Art. 5(1)(a), fairness",
    "account": "GDPR Art. 5(2), accountability",
    "design": "GDPR Art. 25, data protection by design and by default",
    "secure": "GDPR Art. 32(1), security of processing",
    "test": "GDPR Art. 32(1)(d), regular testing of measures",
    "impact": "GDPR Art. 35, data protection impact assessment",
    "nist-epsilon": "NIST SP 800-226: privacy parameters and unit of privacy",
    "nist-correct": "NIST SP 800-226: correctness of the mechanism",
    "nist-utility": "NIST SP 800-226: utility and bias",
    "nist-trust": "NIST SP 800-226: trust model and exposure while data is collected",
    "nist-random": "NIST SP 800-226: randomness and side channels of an implementation",
    "edpb-design": "EDPB Opinion 28/2024: model design",
    "edpb-test": "EDPB Opinion 28/2024: testing and resistance to attacks",
    "edpb-analysis": "EDPB Opinion 28/2024: analysis and audits",
    "edpb-document": "EDPB Opinion 28/2024: documentation",
}
"""By short name, in words."""
