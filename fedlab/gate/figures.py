"""What gates can be about: figures of a report, what tells its rows apart, and comparisons."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType

METRICS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "attack": {
            "psnr_median": "median PSNR in dB over the images that were answered",
            "psnr_max": "PSNR in dB of the best image",
            "psnr_mean": "mean PSNR in dB",
            "psnr_upper": "upper 95 % bound of the mean PSNR, in dB",
            "psnr_above_control": "median PSNR less that of the null control, in dB",
            "ssim_median": "median SSIM",
            "label_accuracy": "share of the labels that were named, 0 to 1",
            "fraction_recovered": "share of the images recovered, 0 to 1",
            "fraction_upper": "upper 95 % bound of that share",
            "recovered": "number of images recovered",
        },
        "membership": {
            "auc": "area under the ROC curve",
            "tpr_at_fpr_0.01": "share of members found at 1 % false positives, 0 to 1",
            "tpr_at_fpr_0.001": "share of members found at 0.1 % false positives, 0 to 1",
        },
        "utility": {
            "accuracy": "mean test accuracy, 0 to 1",
            "accuracy_cost": "how far it lies below that of undefended training",
            "worst_client": "accuracy of the worst client",
            "loss": "mean test loss",
            "virtual_seconds": "virtual time of a training",
        },
        "privacy": {
            "epsilon": "ε that is proved; without a formal guarantee the gate fails",
            "delta": "its δ; without a formal guarantee the gate fails",
            "epsilon_hat": "largest lower bound of ε that canaries found",
            "alarms": "number of checks that contradict what is accounted for",
        },
    }
)
"""Subject -> metric -> its meaning."""

NAMED = ("attack", "membership")
"""Subjects of which there are several, by name."""

ANY = "*"

OPERATORS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {
        ">": operator.gt,
        ">=": operator.ge,
        "<": operator.lt,
        "<=": operator.le,
        "==": operator.eq,
        "!=": operator.ne,
    }
)

KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "attack": ("defense", "mode", "strategy", "threat", "seed"),
        "membership": ("defense", "mode", "strategy", "threat", "seed"),
        "utility": ("defense", "mode", "strategy", "seed"),
        "privacy": ("defense", "mode", "strategy", "seed"),
    }
)
"""What a filter may name, by subject."""
