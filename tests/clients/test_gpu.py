"""The same clients on a GPU; run with `pytest -m gpu` where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedlab.clients import ClientConfig, LocalRule, plan_batches
from fedlab.clients.batches import ClientJob
from fedlab.clients.loop import LocalTraining
from fedlab.tasks import Dataset, FunctionalModel, cross_entropy
from tests.conftest import batch_norm_mlp

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("stacked", [True, False])
def test_a_gpu_learns_what_the_cpu_learns(small_data: Dataset, stacked: bool) -> None:
    """Same masks, same batches; float32 sums in another order. Results come back to the CPU."""
    config = ClientConfig(batch_size=4, local_epochs=2, momentum=0.9)
    model = FunctionalModel(batch_norm_mlp(), small_data.shape)
    start = model.state()
    jobs = [
        ClientJob(c, 1, start, {}, np.arange(10 * c, 10 * c + n), plan_batches(n, config, 3, 1, c))
        for c, n in enumerate([5, 9, 10])
    ]
    found = {}
    for device in ("cpu", "cuda"):
        training = LocalTraining(
            model, cross_entropy, small_data, LocalRule(), config, 3, stacked=stacked, device=device
        )
        found[device] = [training([job])[0] for job in jobs] if not stacked else list(training(jobs))
    for ours, reference in zip(found["cuda"], found["cpu"], strict=True):
        for name, value in reference.state.items():
            assert ours.state[name].device.type == "cpu"
            torch.testing.assert_close(ours.state[name], value, rtol=1e-4, atol=1e-5)
        assert ours.loss == pytest.approx(reference.loss, rel=1e-4)
