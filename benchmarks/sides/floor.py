"""The floor under small clients: their arithmetic alone, written by hand for the 64-64-10 MLP.

One batched matrix product where a cohort has fifty small ones, no autograd, no messages, no average.
`python -m benchmarks.sides.floor`; answers `N` with N rounds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.sides.serve import serve
from benchmarks.work import WORKS, Work

State = dict[str, Tensor]


def steps(state: State, x: Tensor, y: Tensor, count: int, rate: float) -> State:
    """`count` full-batch SGD steps of stacked clients: parameters (n, ...), x (n, B, 64), y (n, B)."""
    names = ("1.weight", "1.bias", "3.weight", "3.bias")
    w1, b1, w2, b2 = (state[name] for name in names)
    target = nn.functional.one_hot(y, w2.shape[1]).to(x.dtype)
    for _ in range(count):
        hidden = torch.baddbmm(b1.unsqueeze(1), x, w1.transpose(1, 2)).relu_()
        logits = torch.baddbmm(b2.unsqueeze(1), hidden, w2.transpose(1, 2))
        slope = logits.softmax(-1).sub_(target).div_(x.shape[1])
        back = torch.bmm(slope, w2).mul_(hidden > 0)
        w1 = w1.sub(torch.bmm(back.transpose(1, 2), x), alpha=rate)
        b1 = b1.sub(back.sum(1), alpha=rate)
        w2 = w2.sub(torch.bmm(slope.transpose(1, 2), hidden), alpha=rate)
        b2 = b2.sub(slope.sum(1), alpha=rate)
    return dict(zip(names, (w1, b1, w2, b2), strict=True))


def loop(work: Work) -> Callable[[int], None]:
    """A function that trains so many rounds of cohorts."""
    images, labels = work.data()
    x = images.reshape(work.clients, work.records, -1)[: work.cohort]
    y = labels.reshape(work.clients, work.records)[: work.cohort]
    one = work.network().state_dict()
    start = {name: value.expand(work.cohort, *value.shape) for name, value in one.items()}

    def rounds(count: int) -> None:
        for _ in range(count):
            steps(start, x, y, work.epochs, work.learning_rate)

    return rounds


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(loop(WORKS["mlp"]), warm_up=5)
