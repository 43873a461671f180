"""Synthetic(α, β): users whose labelling rules and whose features differ, by two knobs.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020,
https://arxiv.org/abs/1812.06127, section 5.1. User k draws u_k ~ N(0, α) and B_k ~ N(0, β), then
W_k, b_k ~ N(u_k, 1) and v_k ~ N(B_k, 1); its records are x ~ N(v_k, Σ), Σ = diag(j^-1.2), and
y = argmax(W_k x + b_k). α says how much the rules differ, β how much the features do.

Deviations from the paper, as in its code: α and β are standard deviations, not variances; a user has
int(LogNormal(4, 2)) + 50 records. Deviation from both: the draw has a seed.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedlab import seeds
from fedlab.errors import UsageError
from fedlab.tasks.task import Dataset

FEATURES, CLASSES = 60, 10
LEAST = 50
"""Records of the smallest user."""


def synthetic(
    *,
    alpha: Annotated[float, Field(ge=0)] = 1.0,
    beta: Annotated[float, Field(ge=0)] = 1.0,
    iid: bool = False,
    users: Annotated[int, Field(ge=1)] = 30,
    seed: Annotated[int, Field(ge=0)] = 0,
) -> tuple[Dataset, Dataset]:
    """(train, test) of synthetic(alpha, beta): x (N, 1, 1, 60) float32 features, 10 classes, groups = users.

    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, https://arxiv.org/abs/1812.06127.

    A tenth of each user's records is held out. The partition `natural` makes each user a client.

    Args:
        alpha: how much the users' labelling rules differ: the standard deviation of their means.
        beta: how much their features differ, likewise.
        iid: one labelling rule for all and features around zero; alpha and beta then mean nothing.
        users: how many there are.
        seed: of all draws.

    Raises:
        UsageError: a parameter out of range.
    """
    if not (0.0 <= alpha < float("inf") and 0.0 <= beta < float("inf")):
        raise UsageError(f"alpha = {alpha}, beta = {beta}; expected finite numbers of at least 0")
    if users < 1:
        raise UsageError(f"users = {users}; expected at least 1")
    draw = seeds.numpy_generator(seed, "synthetic")
    sizes = draw.lognormal(4.0, 2.0, users).astype(np.int64) + LEAST
    rules, features = draw.normal(0.0, alpha, users), draw.normal(0.0, beta, users)
    spread = np.arange(1, FEATURES + 1) ** -0.6  # the square roots of j^-1.2
    shared = draw.normal(size=(FEATURES + 1, CLASSES))
    parts: tuple[list[_Records], list[_Records]] = ([], [])
    for user in range(users):
        rule = shared if iid else draw.normal(rules[user], 1.0, (FEATURES + 1, CLASSES))
        centre = np.zeros(FEATURES) if iid else draw.normal(features[user], 1.0, FEATURES)
        x = centre + spread * draw.normal(size=(sizes[user], FEATURES))
        y = (x @ rule[:-1] + rule[-1]).argmax(1)
        kept = int(0.9 * sizes[user])  # the records come in no order, so that the last are as good as any
        parts[0].append((x[:kept], y[:kept], user))
        parts[1].append((x[kept:], y[kept:], user))
    name = "synthetic-iid" if iid else f"synthetic({alpha:g},{beta:g})"
    return _dataset(name, parts[0]), _dataset(name, parts[1])


_Records = tuple[NDArray[np.float64], NDArray[np.int64], int]
"""Features (n, 60), labels (n,) and the user who owns them."""


def _dataset(name: str, parts: list[_Records]) -> Dataset:
    return Dataset(
        name,
        np.concatenate([x for x, _, _ in parts]).astype(np.float32).reshape(-1, 1, 1, FEATURES),
        np.concatenate([y for _, y, _ in parts]),
        CLASSES,
        "drawn by fedlab after Li et al. (MLSys 2020)",
        "none needed: random numbers",
        groups=np.concatenate([np.full(len(y), user) for _, y, user in parts]),
        synthetic=True,
        bounds=None,
    )
