"""Robust aggregators beside the definitions of their papers, in plain loops over lists; n <= 7 mostly."""

from __future__ import annotations

import functools
import math
from statistics import mean, median
from typing import Any

import pytest
import torch

from fedlab import plugins
from fedlab.strategies import Updates
from fedlab.strategies.aggregators.geometry import squared_distances
from fedlab.strategies.aggregators.preaggregation import Bucketing

Vector = list[float]
SEEDS = range(20)
load = functools.cache(plugins.load)  # finding a plugin takes longer than what is tested


def draw(n: int, seed: int, d: int = 3) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def updates(deltas: torch.Tensor, **more: Any) -> Updates:
    n = len(deltas)
    weights = torch.arange(1.0, n + 1.0, dtype=torch.float64)
    return Updates(deltas, weights, tuple(range(n)), **more)


def combined(name: str, deltas: torch.Tensor, *, root: torch.Tensor | None = None, **params: Any) -> Vector:
    found: Vector = load("aggregators", name)(**params).aggregate(updates(deltas, root=root), {})[0].tolist()
    return found


def mixed(name: str, deltas: torch.Tensor, **params: Any) -> list[Vector]:
    found: list[Vector] = load("preaggregators", name)(**params)(updates(deltas)).deltas.tolist()
    return found


def square(a: Vector, b: Vector) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def length(a: Vector) -> float:
    return math.sqrt(sum(x * x for x in a))


def average(rows: list[Vector]) -> Vector:
    return [mean(column) for column in zip(*rows, strict=True)]


def scores(rows: list[Vector], f: int) -> list[tuple[float, float]]:
    """Krum's: the squared distances to the n − f − 2 nearest others, at least one of them if there is one;
    and those to all others, for ties."""
    n, found = len(rows), []
    for i in range(n):
        others = sorted(square(rows[i], rows[j]) for j in range(n) if j != i)
        found.append((sum(others[: max(1, n - f - 2)]), sum(others)))
    return found


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7])
def test_trimmed_mean_drops_f_at_each_end(n: int) -> None:
    for seed in SEEDS:
        deltas = draw(n, seed)
        for f in range((n - 1) // 2 + 1):
            expected = [mean(sorted(c)[f : n - f]) for c in zip(*deltas.tolist(), strict=True)]
            assert combined("trimmed-mean", deltas, f=f) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "f"), [(3, 0), (5, 1), (6, 1), (7, 2)])
def test_krum_and_multi_krum(n: int, f: int) -> None:
    for seed in SEEDS:
        deltas = draw(n, seed)
        rows = deltas.tolist()
        ranks = scores(rows, f)
        order = sorted(range(n), key=lambda i: (ranks[i], i))
        assert combined("krum", deltas, f=f) == rows[order[0]]
        for m in (None, 1, 2):
            expected = average([rows[i] for i in order[: m or n - f]])
            assert combined("multi-krum", deltas, f=f, m=m) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "f"), [(3, 0), (7, 1), (8, 1), (11, 2)])
def test_bulyan_chooses_one_by_one(n: int, f: int) -> None:
    for seed in SEEDS:
        deltas = draw(n, seed)
        left, chosen = deltas.tolist(), []
        for _ in range(n - 2 * f):
            ranks = scores(left, f)
            chosen.append(left.pop(ranks.index(min(ranks))))
        expected = []
        for column in zip(*chosen, strict=True):
            center = median(column)
            near = sorted(sorted(column), key=lambda value, center=center: abs(value - center))
            expected.append(mean(near[: n - 4 * f]))
        assert combined("bulyan", deltas, f=f) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_the_geometric_median_is_a_minimum(n: int) -> None:
    """Σ ‖v − x_i‖ is no smaller at 60 places around v, and v is a fixed point of Weiszfeld's step."""
    for seed in SEEDS:
        deltas = draw(n, seed)
        rows = deltas.tolist()
        found = combined("geometric-median", deltas)

        def cost(v: Vector, rows: list[Vector] = rows) -> float:
            return sum(math.sqrt(square(v, row)) for row in rows)

        for shift in draw(60, seed + 100).mul(1e-2).tolist():
            assert cost(found) <= cost([a + b for a, b in zip(found, shift, strict=True)]) + 1e-6


def test_the_geometric_median_of_three_steps_is_the_papers() -> None:
    for seed in SEEDS:
        deltas = draw(6, seed)
        rows = deltas.tolist()
        v = average(rows)
        for _ in range(3):
            w = [1.0 / max(1e-6, math.sqrt(square(v, row))) for row in rows]
            v = [sum(a * b for a, b in zip(w, c, strict=True)) / sum(w) for c in zip(*rows, strict=True)]
        assert combined("geometric-median", deltas, iterations=3) == pytest.approx(v, abs=1e-12)


def test_centered_clipping_goes_on_from_its_last_center() -> None:
    rule = plugins.build("aggregators", "centered-clipping", tau=0.7, iterations=2)
    state: dict[str, Any] = {}
    v = [0.0, 0.0, 0.0]
    for seed in SEEDS:
        deltas = draw(5, seed)
        for _ in range(2):
            pulls = []
            for row in deltas.tolist():
                pull = [a - b for a, b in zip(row, v, strict=True)]
                pulls.append([p * min(1.0, 0.7 / length(pull)) for p in pull])
            v = [a + b for a, b in zip(v, average(pulls), strict=True)]
        found, state = rule.aggregate(updates(deltas), state)
        assert found.tolist() == pytest.approx(v, abs=1e-12)


def test_norm_bounding_counts_records() -> None:
    """(3, 4) has length 5 and becomes (.6, .8); (.3, .4) stays; 1 and 2 records: (.6 + .6, .8 + .8)/3."""
    deltas = torch.tensor([[3.0, 4.0], [0.3, 0.4]], dtype=torch.float64)
    assert combined("norm-bounding", deltas, max_norm=1.0) == pytest.approx([0.4, 1.6 / 3])


def test_fltrust_by_hand() -> None:
    """g₀ = (2, 0). (3, 4): trust .6, made (1.2, 1.6); (−1, 0): none; (0, 5): cos 0, none; (4, 0): 1, (2, 0).
    (.6 (1.2, 1.6) + (2, 0)) / 1.6 = (1.7, .6)."""
    deltas = torch.tensor([[3, 4], [-1, 0], [0, 5], [4, 0], [0, 0]], dtype=torch.float64)
    root = torch.tensor([2.0, 0.0], dtype=torch.float64)
    assert combined("fltrust", deltas, root=root) == pytest.approx([1.7, 0.6])
    assert combined("fltrust", -deltas[:1], root=root) == [0.0, 0.0], "nobody is trusted"
    assert combined("fltrust", deltas, root=0 * root) == [0.0, 0.0], "the server has nothing to say"


@pytest.mark.parametrize(("n", "f"), [(3, 0), (3, 1), (5, 2), (7, 2)])
def test_mixing_and_adaptive_clipping(n: int, f: int) -> None:
    for seed in SEEDS:
        deltas = draw(n, seed)
        rows = deltas.tolist()
        near = [sorted(rows, key=lambda other, row=row: square(row, other))[: n - f] for row in rows]
        for got, expected in zip(mixed("nnm", deltas, f=f), near, strict=True):
            assert got == pytest.approx(average(expected), abs=1e-12)
        k = math.floor(2 * f * (n - f) / n)
        bound = sorted(map(length, rows))[n - k - 1]
        for got, row in zip(mixed("arc", deltas, f=f), rows, strict=True):
            assert got == pytest.approx([x * min(1.0, bound / length(row)) for x in row], abs=1e-12)


def test_buckets_hold_everybody_once() -> None:
    """7 in buckets of 3: means of 3, 3 and 1; unit vectors as updates say who is in which."""
    given = updates(torch.eye(7, dtype=torch.float64), generator=torch.Generator().manual_seed(1))
    made = Bucketing(size=3)(given)
    members = [set(row.nonzero().flatten().tolist()) for row in made.deltas]
    assert sorted(map(len, members)) == [1, 3, 3] and set.union(*members) == set(range(7))
    for row, who, weight, client in zip(made.deltas, members, made.weights, made.clients, strict=True):
        assert float(row.max()) == pytest.approx(1 / len(who))
        assert float(weight) == sum(i + 1 for i in who) and client == min(who)
    again = Bucketing(size=3)(updates(given.deltas, generator=torch.Generator().manual_seed(1)))
    other = Bucketing(size=3)(updates(given.deltas, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(made.deltas, again.deltas) and not torch.equal(made.deltas, other.deltas)
    whole = Bucketing(size=1)(given)
    assert torch.equal(whole.deltas, given.deltas) and whole.clients == given.clients


def test_distances_of_nearly_equal_updates_are_exact() -> None:
    """Apart by 1e-9 at a length of 1e3: by x² + y² − 2xy it would be 0 ± 1e-10, and is 1e-18."""
    x = torch.full((3, 4), 500.0, dtype=torch.float64)
    x[1, 0] += 2.0**-30
    found = squared_distances(x)
    assert float(found[0, 1]) == float(found[1, 0]) == 2.0**-60 and float(found[0, 2]) == 0.0
