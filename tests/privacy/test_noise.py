"""Noise: the generator's own bits, or the operating system's, which are normal and never repeat."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fedlab.privacy import noise
from fedlab.privacy.noise import standard_normal


def test_a_generator_gives_the_bits_that_torch_would() -> None:
    ours = standard_normal((3, 5), torch.Generator().manual_seed(7))
    assert torch.equal(ours, torch.randn(3, 5, generator=torch.Generator().manual_seed(7)))


def test_secure_noise_is_normal_never_repeats_and_leaves_the_generator_alone() -> None:
    """Kolmogorov-Smirnov at 1e-9: a right sampler fails once in a billion runs."""
    generator = torch.Generator().manual_seed(7)
    before = generator.get_state()
    drawn = standard_normal((400, 50), generator, secure=True, dtype=torch.float64)
    again = standard_normal((400, 50), generator, secure=True, dtype=torch.float64)
    assert torch.equal(before, generator.get_state()) and not torch.equal(drawn, again)
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-9
    assert drawn.dtype == torch.float64 and standard_normal((), None, secure=True).dtype == torch.float32


@pytest.mark.parametrize(("byte", "sign"), [(b"\x00", -1.0), (b"\xff", 1.0)])
def test_the_ends_of_the_uniform_are_finite_and_mirror_each_other(
    monkeypatch: pytest.MonkeyPatch, byte: bytes, sign: float
) -> None:
    """All bits 0 is the uniform 2^-53, all bits 1 is 1 - 2^-53."""
    monkeypatch.setattr("fedlab.privacy.noise.os.urandom", lambda count: byte * count)
    drawn = float(standard_normal((1,), None, secure=True, dtype=torch.float64))
    assert math.isclose(drawn, sign * stats.norm.isf(2.0**-53), rel_tol=1e-2)
    assert np.isfinite(drawn)


def test_the_source_is_named() -> None:
    assert "protects no real data" in noise.source(secure=False)
    assert "operating system" in noise.source(secure=True)
