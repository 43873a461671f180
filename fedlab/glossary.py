"""The words of a report, once: the page prints them, and `fedlab explain` tells of them in the terminal.

Nothing is imported here, so that a word is explained before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """One step of the reading aid.

    Attributes:
        rank: grows with what was taken from the client.
        advice: what to do about it.
    """

    key: str
    rank: int
    symbol: str
    word: str
    meaning: str
    advice: str


LEVELS: Mapping[str, Level] = {
    level.key: level
    for level in (
        Level(
            "failed",
            0,
            "!",
            "attack failed",
            "the attack crashed or broke its contract: this says nothing about what leaks",
            "Read its error in the annex of the report, mend the attack or its parameters, and try it again"
            " with `fedlab attack RUN --attack NAME`.",
        ),
        Level(
            "unattacked",
            0,
            "∅",
            "no victim",
            "no observed update was eligible, so nothing was attacked: this says nothing about what leaks",
            "Observe more rounds (audit.rounds), or see in the limits of the report what kept updates away.",
        ),
        Level(
            "refused",
            0,
            "–",
            "not applicable",
            "the attack declined every victim, or lacked knowledge",
            "Read the reason in the annex; grant what it lacks with `fedlab attack RUN --threat oracle`, or"
            " count on the other attacks.",
        ),
        Level(
            "labels",
            0,
            "#",
            "labels only",
            "the attack infers labels and answers with no image",
            "Look at the label accuracy in the full figures; images are another attack's to find.",
        ),
        Level(
            "control",
            1,
            "○",
            "nothing beyond control",
            "the median is within 1 dB of what the attack draws from a random update, and no single image"
            " reaches the threshold",
            "This attack found nothing. Others might: try stronger ones before you rest on it.",
        ),
        Level(
            "above",
            2,
            "◔",
            "above control",
            "the median is more than 1 dB above its control, but no image reaches the threshold",
            "Something of the records shows. Give the attack more iterations, and look at the pictures"
            " (audit.include_samples) if the data may be shown.",
        ),
        Level(
            "some",
            3,
            "◐",
            "some recovered",
            "at least one image reaches the threshold; the median does not",
            "See under exposure whose records they are, and compare defenses: the recommendations name some.",
        ),
        Level(
            "most",
            4,
            "◕",
            "most recovered",
            "the median reaches the threshold",
            "Do not train on private data like this. The recommendations name what stops it here.",
        ),
        Level(
            "copy",
            5,
            "●",
            "near-identical",
            "the median is at least 30 dB, and at least the threshold",
            "Updates are as good as the records themselves. The recommendations name what stops it here.",
        ),
    )
}

VERDICTS: Mapping[str, str] = {
    "unique": (
        "No other input of that layer gives this update, up to rounding, and in exact arithmetic up to"
        " the reading of the batch as one step. The answer is proved, not guessed."
    ),
    "not unique": (
        "A whole space of inputs, of known dimension, gives this update. The answer is one of many, and"
        " no proof of what the record was."
    ),
    "not applicable": "The equations cannot be set up here, and the certificate says why.",
}
"""What a certificate may say."""

WORDS: Mapping[str, str] = {
    "Federated learning": (
        "Clients train a shared model on their own data and send model updates, not records, to a server."
    ),
    "Update": (
        "The change of the model's weights that one client sends after one round. It is computed from"
        " that client's records, and so can carry them."
    ),
    "Reconstruction": (
        "An image that an attacker computes from an update, hoping that it equals the client's private one."
    ),
    "Membership inference": "Finding out whether a certain record was among those that were trained on.",
    "Honest-but-curious server": "It does its job as agreed, and looks at what it receives.",
    "Malicious server": (
        "It also sends clients altered weights or networks, to make their updates give more away."
    ),
    "Threat model": (
        "What an attacker is assumed to see, know and do. A result holds for its threat model only."
    ),
    "Adaptive attack": (
        "An attack that knows the defense and is made for it. Only such attacks say whether a defense holds."
    ),
    "Unaware": (
        "The label of the same attack by an attacker who does not know of the defense. What it recovers"
        " less than the informed one is what the defense owes to secrecy alone."
    ),
    "Certificate": (
        "A calculation that shows an attack's answer to be the only one that fits the update: proof, not"
        " likeness."
    ),
    "Residual": (
        "How much of an update a reconstruction does not explain, as a share: near 0 it makes the same"
        " update, at 1 it explains nothing. It needs no original, and a wrong image can have a small one."
    ),
    "Replay": (
        "A client's training repeated on what was recorded or reconstructed, and held against the update that"
        " it sent. Where the two differ, something else acts on the update."
    ),
    "Obstacle": "Why updates of a Flower app are not attacked: answers would be nonsense, and prove nothing.",
    "Training and inference mode": (
        "How clients run their network while they compute updates: with dropout and batch statistics, or"
        " without. It changes what leaks."
    ),
    "Defense": "A change to training or to the network that is meant to make updates leak less.",
    "Differential privacy": (
        "A property of a training method, with proof: its result would be almost as likely without any"
        " one record."
    ),
    "Unit of privacy": (
        "What the proof hides: one record, or everything of one client. A small ε for a record can be a"
        " large one for a person with many records."
    ),
    "Accountant": "A calculation of ε from how much noise was added, how often, and how records were drawn.",
    "Lower bound of ε, canary": (
        "Records made to be found are put in or left out by the toss of a coin; who guesses too often"
        " right which shows that ε cannot be smaller."
    ),
    "Secure aggregation": "A protocol that lets the server see sums of updates, and no single one.",
    "Frontier": "The defenses of which none is beaten by another in leakage and accuracy both.",
    "Gate": "A condition set beforehand; an audit that does not meet it fails.",
    "DPIA": "Data protection impact assessment, GDPR Art. 35. This report can be part of its evidence.",
}
"""The glossary of a report, in its order."""

NUMBERS: Mapping[str, str] = {
    "Mean and interval": (
        "Mean PSNR in dB with a 95 % bootstrap interval over victims (2000 resamples, fixed seed). With"
        " few victims such an interval is too narrow: read it as a lower bound of the uncertainty."
    ),
    "Control": (
        "The same attack on a random update of the same size. It shows what the attack draws without any"
        " data of the client: its own habits, and what all such images have in common."
    ),
    "Matching": (
        "The order of a batch cannot be recovered, so reconstructions and originals are matched one to"
        " one with the least total error. Attackers choose among their candidates without the originals;"
        " of surplus answers only the first count."
    ),
    "Exposure": (
        "A record's leak is the highest PSNR that any attack of the run's own attacker reached on it; a"
        " client's or a class's the highest of its attacked records."
    ),
    "ε, δ": (
        "Upper bound on how much one record can change what anyone learns, except with probability δ: no"
        " event gets more than e^ε times as likely. Printed rounded up. The largest value over the clients"
        " that took part."
    ),
}
"""How to read some of a report's numbers; the others are in `METRICS`."""

METRICS: Mapping[str, str] = {
    "psnr": (
        "Peak signal-to-noise ratio, 10·log10(1 / max(MSE, 1e-20)) on pixels in [0, 1]: how close a"
        " reconstruction is to the original. At most 200 dB, which means no error at all."
    ),
    "ssim": (
        "Structural similarity (Wang et al. 2004), Gaussian window of 11 pixels, or the largest odd one"
        " that fits: 1 for identical images, about 0 for unrelated ones."
    ),
    "mse": "Mean squared error of the pixels in [0, 1]; 0 is an exact copy.",
    "label_accuracy": (
        "Fraction of the batch's labels that the attacker named, compared as counts because a batch has"
        " no order; naming more labels than there are records lowers it."
    ),
    "fraction_recovered": (
        "Fraction of all true images whose matched reconstruction reaches the PSNR threshold; images for"
        " which the attack gave no answer count as not recovered."
    ),
}
"""Definitions of the scores, by their names in report.json."""

THREATS: Mapping[str, str] = {
    "weights": "The attacker has the network, its weights and the update, as on the wire.",
    "protocol": (
        "The default: also what the server itself told the clients (batch size, learning rate, local"
        " steps, momentum, mode, dropout rate, the defense) and batch-norm statistics."
    ),
    "proxy": "As `protocol`, and data of the same kind as the clients', none of theirs.",
    "labels": "As `protocol`, and the labels of the batch, which no server knows: an upper bound.",
    "oracle": (
        "Everything that a threat model can grant, dropout masks too. Nobody has it; it bounds what a"
        " stronger attacker could do."
    ),
}
"""What the levels of `[threat]` assume an attacker to know, from the least on."""
