"""Which records a client uses: exact epochs, exact steps, Poisson rates."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedlab.clients import ClientConfig, plan_batches


@given(records=st.integers(1, 60), batch=st.integers(0, 70), epochs=st.integers(1, 4))
def test_an_epoch_uses_each_record_once(records: int, batch: int, epochs: int) -> None:
    plan = plan_batches(records, ClientConfig(batch_size=batch, local_epochs=epochs), 0, 1, 2)
    size = min(batch or records, records)
    per_epoch = -(-records // size)
    assert len(plan) == epochs * per_epoch and all(len(b) <= size for b in plan)
    for e in range(epochs):
        used = np.concatenate(plan[e * per_epoch : (e + 1) * per_epoch])
        assert sorted(used) == list(range(records))


@given(records=st.integers(1, 40), steps=st.integers(1, 12))
def test_local_steps_count_mini_batches(records: int, steps: int) -> None:
    plan = plan_batches(records, ClientConfig(batch_size=7, local_steps=steps), 0, 1, 2)
    assert len(plan) == steps and all(len(b) > 0 for b in plan)


def test_the_plan_is_a_function_of_its_place() -> None:
    config = ClientConfig(batch_size=1, local_steps=1)
    plans = {tuple(plan_batches(1000, config, s, r, c)[0]) for s in (0, 1) for r in (1, 2) for c in (0, 1)}
    assert len(plans) == 8
    assert (plan_batches(50, config, 3, 4, 5)[0] == plan_batches(50, config, 3, 4, 5)[0]).all()


def test_poisson_batches_have_a_binomial_size() -> None:
    """2,000 steps of Binomial(40, 4/40): mean 4, variance 3.6; bounds are 5 standard errors."""
    config = ClientConfig(batch_size=4, local_steps=2000, sampling="poisson")
    sizes = np.array([len(b) for b in plan_batches(40, config, 0, 1, 2)])
    assert abs(sizes.mean() - 4.0) < 5 * np.sqrt(3.6 / 2000)
    assert abs(sizes.var() - 3.6) < 5 * 3.6 * np.sqrt(2 / 2000)
    assert sizes.min() == 0
