"""What secure sums are built of: shares, keys and masks, integers, neighbours; and the defense's settings."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from fedlab_defenses.secure_sum.keys import SEALED, KeyPair, mask, seal, unseal
from fedlab_defenses.secure_sum.masked import SecAggPlus
from fedlab_defenses.secure_sum.neighbours import neighbourhoods
from fedlab_defenses.secure_sum.quantisation import Quantiser, quantiser
from fedlab_defenses.secure_sum.shares import PRIME, combine, split
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlab.audit.stack import Stack
from fedlab.clients import ClientConfig, Federation, LocalRule
from fedlab.clients.rules.scaffold import Scaffold
from fedlab.errors import DataError, UsageError
from fedlab.privacy import Ledger
from fedlab.strategies import as_aggregator
from fedlab.strategies.aggregators import mean, median, weighted_mean
from tests.defenses.secure_rounds import federation as rounds
from tests.defenses.secure_rounds import plan, round_of


def federation(**changes: Any) -> Federation:
    return Federation(
        **{"records": (10, 30, 20), "rounds": 5, "config": ClientConfig(), "cohort": 6} | changes
    )


@settings(max_examples=40)
@given(secret=st.binary(min_size=16, max_size=16), threshold=st.integers(1, 5), seed=st.integers(0, 99))
def test_any_so_many_shares_give_the_secret_back(secret: bytes, threshold: int, seed: int) -> None:
    shares = split(secret, threshold, 5, np.random.default_rng(seed).bytes)
    for points in itertools.combinations(range(1, 6), threshold):
        assert combine({x: shares[x - 1] for x in points}) == secret


def test_one_share_too_few_fits_every_secret_as_well() -> None:
    """f(x) = s + a x of threshold 2: for each s there is one a with which f(3) is the share seen; and a is
    uniform, so that all are as likely. Checked on the line through the share and a wrong secret."""
    secret = bytes(range(16))
    seen = int.from_bytes(split(secret, 2, 3, np.random.default_rng(1).bytes)[2], "little")
    wrong = 12345
    slope = (seen - wrong) * pow(3, -1, PRIME) % PRIME
    other = {3: seen.to_bytes(17, "little"), 1: ((wrong + slope) % PRIME).to_bytes(17, "little")}
    assert combine(other) == wrong.to_bytes(16, "little")


def test_too_few_shares_are_found_out() -> None:
    """A wrong value lies within 16 bytes with a chance of one in four: of 60 sets about 45 are found out."""
    found = 0
    for seed in range(60):
        shares = split(bytes(16), 3, 5, np.random.default_rng(seed).bytes)
        try:
            combine({1: shares[0], 2: shares[1]})
        except DataError:
            found += 1
    assert 30 <= found <= 58


def test_bad_thresholds_and_secrets_are_refused() -> None:
    for secret, threshold, count in ((bytes(15), 2, 3), (bytes(16), 4, 3), (bytes(16), 0, 3)):
        with pytest.raises(UsageError, match="expected 16 bytes"):
            split(secret, threshold, count, np.random.default_rng(1).bytes)


def test_both_ends_agree_and_nobody_else() -> None:
    one, two, three = (KeyPair.of(bytes([i] * 16)) for i in range(3))
    assert one.agree(two.public, b"a") == two.agree(one.public, b"a")
    assert len({one.agree(two.public, b"a"), one.agree(two.public, b"b"), one.agree(three.public, b"a")}) == 3
    private = X25519PrivateKey.generate()  # the library's own, at the other end
    assert len(private.exchange(X25519PublicKey.from_public_bytes(one.public))) == 32
    with pytest.raises(DataError, match="public key"):
        one.agree(bytes(31), b"a")


def test_a_sealed_letter_opens_for_its_receiver_only_and_unchanged() -> None:
    key, letter = bytes(32), b"two shares"
    sealed = seal(key, 7, letter)
    assert unseal(key, 7, sealed) == letter and len(sealed) == len(letter) + SEALED
    for wrong_key, sender, changed in (
        (bytes([1]) * 32, 7, sealed),
        (key, 8, sealed),
        (key, 7, sealed[:-1] + b"x"),
    ):
        with pytest.raises(DataError, match="changed on its way"):
            unseal(wrong_key, sender, changed)


def test_a_mask_is_the_keystream_of_rfc_8439() -> None:
    """ChaCha20 with a key of zeros, nonce and counter 0: the first block of RFC 8439, A.1, test vector 1."""
    assert mask(bytes(32), 4, 32).tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"
    assert mask(bytes(32), 2, 64).tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"
    assert not np.array_equal(mask(bytes(32), 4, 32), mask(bytes(32), 4, 32, stream=1))


@given(
    values=st.lists(st.floats(-10.0, 10.0), min_size=1, max_size=30),
    bits=st.sampled_from([32, 64]),
    factor=st.floats(0.01, 1.0),
)
def test_a_sum_of_integers_is_the_sum_within_half_a_step_each(
    values: list[float], bits: int, factor: float
) -> None:
    numbers = Quantiser(clip=8.0, levels=2**22, bits=bits)
    total = sum(numbers.encode(np.array([value]), factor) for value in values)
    exact = sum(factor * min(max(value, -8.0), 8.0) for value in values)
    assert abs(float(numbers.decode(total)[0]) - exact) <= len(values) * numbers.step / 2 * (1 + 1e-9)


def test_the_largest_sum_does_not_overflow_and_one_more_would() -> None:
    """100 levels modulo 2^32 hold 42,949,672 numbers: all at +clip add up to 2,147,483,600 < 2^31."""
    numbers = quantiser(1.0, 100, 32, 42_949_672)
    total = numbers.encode(np.ones(1)) * np.uint32(numbers.most)
    assert float(numbers.decode(total)[0]) == pytest.approx(numbers.most)
    assert float(numbers.decode(total + numbers.encode(np.ones(1)))[0]) < 0.0
    with pytest.raises(UsageError, match=r"overflow 2\^32; take at most 99 levels, or bits = 64"):
        quantiser(1.0, 100, 32, numbers.most + 1)


def test_bits_are_as_many_as_the_sum_needs() -> None:
    assert quantiser(8.0, 2**22, None, 1023).bits == 32
    assert quantiser(8.0, 2**22, None, 1024).bits == 64
    with pytest.raises(UsageError, match="smaller cohort"):
        quantiser(8.0, 2**48, None, 2**17)


@given(count=st.integers(2, 40), half=st.integers(1, 8), seed=st.integers(0, 99))
def test_neighbours_are_mutual_and_as_many_as_wanted(count: int, half: int, seed: int) -> None:
    found = neighbourhoods(range(10, 10 + count), 2 * half, np.random.default_rng(seed))
    for node, around in found.items():
        assert node in around and len(set(around)) == len(around) == min(2 * half + 1, count)
        assert all(node in found[other] for other in around)


def test_uplink_bytes_are_what_travels() -> None:
    """5 clients, all neighbours: what they really send beside names and headers."""
    agreed = plan(5, 3)
    grid, spy = rounds(5, agreed)
    round_of(grid)
    sent = 0
    for reply in spy.seen:
        for record in reply.content.config_records.values():
            for value in record.values():
                listed = value if isinstance(value, list) else [value]
                sent += sum(len(one) for one in listed if isinstance(one, bytes))
        for record in reply.content.array_records.values():
            sent += sum(array.numpy().nbytes for array in record.values())
    # 9 floats; figures: the weight, num-examples, train-loss, and the counter
    assert sent / 5 == agreed.uplink_bytes(9, 5, figures=4)


def test_what_is_masked_is_sent_whole_whatever_was_left_out_before() -> None:
    """1000 numbers of 4 bytes, 3 figures of 8, keys, and letters and shares among 6."""
    stack = Stack(of=[{"name": "gradient-pruning", "ratio": 0.9}, {"name": "secagg-plus"}])
    stack.local_rule(LocalRule(), federation())
    assert stack.uplink_bytes(1000) == 4000 + 24 + 64 + 5 * (2 * 17 + 16) + 6 * 17


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"threshold": 1}, "at least 2"),
        ({"clip": 0.0}, "clip = 0.0"),
        ({"clip": float("nan")}, "clip = nan"),
        ({"levels": 3}, "even number"),
        ({"levels": 2**50}, "even number"),
        ({"bits": 16}, "expected 32 or 64"),
        ({"neighbours": 3}, "even number, at least 2"),
        ({"patience": 0.0}, "seconds above 0"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        SecAggPlus(**arguments)


@pytest.mark.parametrize(
    ("arguments", "changes", "match"),
    [
        ({"threshold": 3}, {}, "threshold = 3 of a cohort of 6; expected 4 to 6"),
        ({"threshold": 7}, {}, "expected 4 to 6"),
        ({}, {"cohort": 1}, "nothing to add up"),
        ({"threshold": 4}, {"quorum": 5}, "opened that make no model"),
        ({"bits": 32, "levels": 2**30}, {}, "overflow"),
    ],
)
def test_settings_that_do_not_fit_the_federation_are_refused(
    arguments: dict[str, Any], changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        SecAggPlus(**arguments).local_rule(LocalRule(), federation(**changes))


def test_what_needs_single_updates_is_refused_by_name() -> None:
    defense = SecAggPlus()
    with pytest.raises(UsageError, match="median"):
        defense.aggregator(as_aggregator(median), federation())
    with pytest.raises(UsageError, match="Scaffold"):
        defense.local_rule(Scaffold(), federation())
    with pytest.raises(UsageError, match="comes before mods"):
        SecAggPlus().mods()


def test_clients_weigh_as_the_aggregator_has_it_and_keys_are_the_systems_where_it_must_be_secure() -> None:
    for function, cap in ((weighted_mean, 30), (mean, 1)):
        defense = SecAggPlus()
        defense.local_rule(LocalRule(), federation(secure=cap == 1))
        assert defense.aggregator(as_aggregator(function), federation()).minimum == 4
        (mod,) = defense.mods()
        assert mod.cap == cap and mod.seed == (None if cap == 1 else 0)


def test_it_proves_no_epsilon_and_shows_what_rounding_costs() -> None:
    """Half a step: 8 / 2^22 = 1.9e-06."""
    said = SecAggPlus().guarantee(Ledger())
    assert said.epsilon is None and "no noise" in str(said.reason)
    assert any("1.9e-06" in one.text for one in said.assumptions)
