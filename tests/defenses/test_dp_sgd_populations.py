"""Which clients decide the noise of a target ε, in populations of many sizes."""

from __future__ import annotations

from fedlab_defenses.privacy.dp_sgd import _hardest
from fedlab_defenses.privacy.private_gradients import sample_rate
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.clients import ClientConfig, Federation
from fedlab.clients.plan import steps_per_round
from fedlab.seeds import numpy_generator
from fedlab.tasks.datasets.gaussians import gaussians
from fedlab.tasks.population import drawn, sizes


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(0, 40), st.integers(1, 5))
def test_every_client_is_covered_and_nobody_is_looked_at_in_vain(
    held: list[int], batch: int, rounds: int
) -> None:
    config = ClientConfig(batch_size=batch, sampling="poisson")
    found = _hardest(Federation(held, rounds, config))
    everybody = {(sample_rate(batch, n), rounds * steps_per_round(n, config)) for n in held}
    assert set(found) == {
        one
        for one in everybody
        if not any(other != one and other[0] >= one[0] and other[1] >= one[1] for other in everybody)
    }


def test_a_hundred_million_clients_take_a_few_calculations() -> None:
    """With as many steps for all, the smallest that may be decides: 16 of 20 records."""
    owners = drawn(gaussians(test_records=1)[0], 10**8, generator=numpy_generator(0), least=20, most=300)
    config = ClientConfig(batch_size=16, local_steps=2, sampling="poisson")
    assert _hardest(Federation(sizes(owners), 50, config)) == [(0.8, 100)]
