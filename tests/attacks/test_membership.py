"""Membership attacks: members of overfitted clients are found, noise tells nothing, candidates are alone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from attack_scene import IMAGES, LABELS, mlp, stream
from fedlab_attacks.membership.gradient import GradientMembership, summed_gradients
from fedlab_attacks.membership.lira import LiRA, likelihood_ratio
from fedlab_attacks.membership.loss import LossMembership
from fedlab_attacks.membership.measures import alignments, confidences, losses, sent, updated
from fedlab_attacks.membership.rounds import distance
from fedlab_attacks.membership.shadows import holdings, shadow_logits
from torch import Tensor, nn

from fedlab.audit.detection import detection, standardised
from fedlab.audit.membership import Candidates, MembershipAttack
from fedlab.audit.observation import Observation, random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Proxy, Victim
from fedlab.clients.config import ClientConfig
from fedlab.errors import MissingKnowledge, NotApplicable, PluginError, UnusableUpdate, UsageError
from fedlab.tasks import FunctionalModel, State, cross_entropy, initialise

RECORDS, RATE, STEPS = 8, 0.5, 20
GRANTED = ThreatModel(proxy_data=True)
ATTACKS: dict[str, Callable[[], MembershipAttack]] = {
    "loss": LossMembership,
    "loss-ratio": lambda: LossMembership(statistic="ratio"),
    "loss-after": lambda: LossMembership(statistic="after"),
    "loss-others": lambda: LossMembership(against_others=True),
    "gradient": GradientMembership,
    "gradient-norm": lambda: GradientMembership(statistic="norm"),
    "gradient-others": lambda: GradientMembership(against_others=True),
    "lira": lambda: LiRA(shadows=16),
}
every_attack = pytest.mark.parametrize("name", ATTACKS)
ORDER = torch.randperm(len(IMAGES), generator=stream(7))


def owned(client: int) -> Tensor:
    """Records of a client; from 900 on they are nobody's."""
    return ORDER[client * RECORDS : (client + 1) * RECORDS]


def victim_of(network: Callable[[], nn.Module]) -> Victim:
    model = FunctionalModel(initialise(network, 0), (1, 8, 8))
    spare = ORDER[1400:1600]
    return Victim(model, cross_entropy, (1, 8, 8), 10, proxy=Proxy(IMAGES[spare], LABELS[spare]))


def trained(victim: Victim, client: int, round: int, start: State) -> Observation:
    """Full-batch steps of SGD on the client's records."""
    state, ids = start, owned(client)
    buffers = victim.model.buffers_of(start)
    before = victim.model.parameters_of(start)
    values = before
    for _ in range(STEPS):
        slope = victim.gradient(values, buffers, IMAGES[ids], LABELS[ids], training=False)
        values = {name: values[name] - RATE * slope[name] for name in values}
    config = ClientConfig(mode="eval", batch_size=RECORDS, local_steps=STEPS, learning_rate=RATE)
    update = {name: values[name] - state[name] for name in values}
    return Observation(round, client, before, update, buffers, buffers, config, examples=RECORDS)


Scene = tuple[Victim, list[list[Observation]]]


def federation(network: Callable[[], nn.Module], clients: int, rounds: int = 2) -> Scene:
    """Each client's observations over rounds of federated averaging."""
    victim = victim_of(network)
    state = victim.model.state()
    seen: list[list[Observation]] = [[] for _ in range(clients)]
    for round in range(1, rounds + 1):
        for client, mine in enumerate(seen):
            mine.append(trained(victim, client, round, state))
        mean = {n: sum(one[-1].update[n] for one in seen) / clients for n in victim.model.parameter_names}
        state = {name: value + mean.get(name, 0.0) for name, value in state.items()}
    return victim, seen


@pytest.fixture(scope="module")
def scene() -> Scene:
    return federation(functools.partial(mlp, p=0.0, width=64), 6)


def asked(client: int, others: int = 40) -> tuple[Candidates, list[int]]:
    """The client's records, and as many that nobody used."""
    ids = torch.cat([owned(client), ORDER[900 + others * client :][:others]])
    return Candidates(IMAGES[ids], LABELS[ids]), [1] * RECORDS + [0] * others


def besides(seen: Sequence[Sequence[Observation]], client: int) -> list[Observation]:
    return [one for place, mine in enumerate(seen) if place != client for one in mine]


def area(name: str, scene: Scene, change: Callable[[Observation], Observation] = lambda one: one) -> float:
    victim, seen = scene
    scores, members = [], []
    for client, mine in enumerate(seen):
        candidates, member = asked(client)
        found = ATTACKS[name]()(
            [change(one) for one in mine],
            besides(seen, client),
            candidates,
            GRANTED,
            victim,
            generator=stream(client),
        )
        scores += standardised(found.numpy()).tolist()
        members += member
    found_area = detection(scores, members).auc
    assert found_area is not None
    return found_area


@every_attack
def test_members_of_an_overfitted_client_are_told(name: str, scene: Scene) -> None:
    assert area(name, scene) > 0.75


@every_attack
def test_a_random_update_tells_nothing(name: str, scene: Scene) -> None:
    """In the first round, when the model that was sent knows no record either."""
    victim, seen = scene
    generator = stream(11)
    first = victim, [mine[:1] for mine in seen]
    value = area(name, first, lambda one: random_twin(one, generator))
    assert 0.36 < value < 0.64  # 48 members, 240 others: three standard deviations of 0.046


@every_attack
def test_scores_do_not_depend_on_the_order_or_the_company(name: str, scene: Scene) -> None:
    """Without shadow models a record's score is its own; LiRA's shadows hold others beside it."""
    victim, seen = scene
    candidates, _ = asked(0)
    turned = torch.randperm(len(candidates), generator=stream(3))

    def score(which: Tensor) -> Tensor:
        some = Candidates(candidates.images[which], candidates.labels[which])
        return ATTACKS[name]()(seen[0], besides(seen, 0), some, GRANTED, victim, generator=stream())

    whole = score(torch.arange(len(candidates)))
    if name == "lira":  # other shadows hold a record when it stands elsewhere: the same up to their noise
        both = torch.stack([score(turned), whole[turned]])
        assert float(torch.corrcoef(both)[0, 1]) > 0.8
        return
    assert torch.allclose(score(turned), whole[turned], atol=1e-4, rtol=1e-4)
    if not name.endswith("others"):  # one deviation is taken over all records
        for place in (0, 30):
            assert torch.allclose(score(torch.tensor([place])), whole[place], atol=1e-4, rtol=1e-4)


@every_attack
def test_the_same_seed_gives_the_same_scores(name: str, scene: Scene) -> None:
    victim, seen = scene
    candidates, _ = asked(1)
    first, second = (
        ATTACKS[name]()(seen[1], besides(seen, 1), candidates, GRANTED, victim, generator=stream(4))
        for _ in range(2)
    )
    assert torch.equal(first, second) and first.dtype == torch.float64


@every_attack
def test_progress_ends_at_its_total(name: str, scene: Scene) -> None:
    victim, seen = scene
    told: list[tuple[int, int]] = []
    ATTACKS[name]()(
        seen[0],
        besides(seen, 0),
        asked(0)[0],
        GRANTED,
        victim,
        generator=stream(),
        report=lambda done, total: told.append((done, total)),
    )
    assert told[-1][0] == told[-1][1] and told == sorted(told)


def test_gradients_one_by_one_are_those_of_the_network(scene: Scene) -> None:
    victim, seen = scene
    candidates, _ = asked(0, others=3)
    direction = {name: seen[0][0].update[name] for name in victim.shared}
    products, norms = alignments(victim, sent(seen[0][0]), candidates, [direction])
    for place in (0, RECORDS):
        slope = victim.gradient(
            seen[0][0].before, {}, candidates.images[[place]], candidates.labels[[place]], training=False
        )
        inner = sum(float((slope[name] * direction[name]).sum()) for name in slope)
        assert float(products[0, place]) == pytest.approx(inner, rel=1e-4)
        assert float(norms[place]) == pytest.approx(
            sum(float(v.square().sum()) for v in slope.values()), rel=1e-4
        )


def test_one_step_on_one_record_is_its_gradient() -> None:
    """cos = 1, and |u|^2 - |u - g|^2 = |g|^2, for the record itself: u = g."""
    victim = victim_of(functools.partial(mlp, p=0.0, width=32))
    before = victim.model.state()
    slope = victim.gradient(before, {}, IMAGES[:1], LABELS[:1], training=False)
    config = ClientConfig(batch_size=1, local_steps=1, learning_rate=0.5)
    update = {name: -0.5 * value for name, value in slope.items()}
    one = Observation(1, 0, before, update, {}, {}, config, examples=1)
    size = sum(float(value.square().sum()) for value in slope.values())
    pair = Candidates(IMAGES[:2], LABELS[:2])
    cosine = GradientMembership()([one], [], pair, ThreatModel(), victim, generator=stream())
    norm = GradientMembership(statistic="norm")([one], [], pair, ThreatModel(), victim, generator=stream())
    assert float(cosine[0]) == pytest.approx(1.0, abs=1e-5) and float(cosine[1]) < 0.99
    assert float(norm[0]) == pytest.approx(size, rel=1e-4) and float(norm[1]) < size
    told = summed_gradients(one, ThreatModel(), victim)
    assert all(torch.allclose(told[name], slope[name], atol=1e-7) for name in slope)


def test_loss_before_minus_after_by_hand(scene: Scene) -> None:
    victim, seen = scene
    candidates, _ = asked(0)
    expected = sum(
        losses(victim, sent(one), candidates) - losses(victim, updated(one), candidates) for one in seen[0]
    )
    found = LossMembership()(seen[0], [], candidates, ThreatModel(), victim, generator=stream())
    assert torch.allclose(found, torch.as_tensor(expected))


def test_confidence_is_the_log_odds_of_the_true_label() -> None:
    outputs = torch.tensor([[0.0, 1.0, 2.0], [80.0, 0.0, 0.0]])
    p = outputs.double().softmax(-1)
    found = confidences(outputs, torch.tensor([2, 0]))
    assert float(found[0]) == pytest.approx(float(torch.log(p[0, 2] / (1 - p[0, 2]))), rel=1e-6)
    assert float(found[1]) == pytest.approx(80.0 - 0.6931472, rel=1e-6)  # 1 - p would be 0 in any precision
    assert confidences(outputs.expand(4, 2, 3), torch.tensor([2, 0])).shape == (4, 2)


def test_the_distance_from_others_by_hand() -> None:
    """Means 1 and 2; variances 2 and 2 (of 0, 2 and of 1, 3): their root is sqrt(2)."""
    found = distance(torch.tensor([1.0 + 2**0.5, 2.0]), torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    assert found.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert distance(torch.tensor([3.0]), torch.tensor([[1.0], [1.0]])).tolist() == [2.0]


def test_the_likelihood_ratio_of_two_normals() -> None:
    """Records alike in everything: the ratio is that of N(2, s^2) and N(0, s^2), linear in the confidence."""
    generator = stream(5)
    inside = torch.rand(4000, 6, generator=generator) < 0.5
    shadows = torch.randn(4000, 6, generator=generator, dtype=torch.float64) + 2.0 * inside
    own = torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0, 5.0], dtype=torch.float64)
    expected = [2.0 * (value - 1.0) for value in own.tolist()]
    assert likelihood_ratio(own, shadows, inside).tolist() == pytest.approx(expected, abs=0.35)


def test_a_record_that_every_shadow_held_has_no_ratio() -> None:
    inside = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
    shadows = torch.tensor([[1.0, 2.0], [1.5, 0.0], [0.5, 2.5], [1.0, 0.2]], dtype=torch.float64)
    ratio = likelihood_ratio(torch.tensor([9.0, 2.0], dtype=torch.float64), shadows, inside)
    assert float(ratio[0]) == 0.0 and float(ratio[1]) > 0.0


def test_shadow_clients_hold_what_they_should() -> None:
    held = holdings(12, 10, 16, 30, generator=stream(1))
    assert held.records.shape == (12, 10) and held.inside.shape == (12, 16)
    assert all(len(set(row)) == 10 for row in held.records.tolist())  # nothing twice
    assert held.inside.sum(1).tolist() == [5] * 12  # half of the client's records
    assert set(held.inside.sum(0).tolist()) <= {3, 4}  # 12 * 5 / 16 = 3.75 times each
    picked = [[one for one in row if one < 16] for row in held.records.tolist()]
    assert all(bool(held.inside[i, row].all()) and len(row) == 5 for i, row in enumerate(picked))
    many = holdings(3, 50, 8, 10, generator=stream(1))  # at most half of the candidates; proxies serve again
    assert many.inside.sum(1).tolist() == [4] * 3 and many.records.shape == (3, 50)
    with pytest.raises(NotApplicable, match="expected at least 2 of each"):
        holdings(3, 1, 8, 10, generator=stream())
    with pytest.raises(NotApplicable, match="no proxy record"):
        holdings(3, 10, 8, 0, generator=stream())


def test_a_shadow_trains_as_the_client_did(scene: Scene) -> None:
    """One shadow that holds exactly the client's records, full batches: its logits are the client's own."""
    victim, seen = scene
    ids, one = owned(0), seen[0][0]
    candidates, proxy = Candidates(IMAGES[ids], LABELS[ids]), victim.proxy
    assert proxy is not None
    held = holdings(1, RECORDS, RECORDS, len(proxy.labels), generator=stream())
    held = replace(held, records=torch.arange(RECORDS)[None])
    (found,) = shadow_logits(
        one, candidates, proxy, victim, ThreatModel(client_mode="eval"), held, generator=stream()
    )
    expected, _ = victim.model(updated(one), candidates.images, training=False)
    assert torch.allclose(found[0], expected, atol=1e-3)  # 20 steps apart in rounding


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_shadows_of_networks_with_dropout_and_batch_norm(mode: str) -> None:
    def network() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(144, 10),
        )

    victim = victim_of(network)
    start = victim.model.state()
    before, buffers = victim.model.parameters_of(start), victim.model.buffers_of(start)
    config = ClientConfig(batch_size=8, local_epochs=2, learning_rate=0.05, momentum=0.5, weight_decay=1e-3)
    update = {name: 0.01 * torch.randn(v.shape, generator=stream()) for name, v in before.items()}
    one = Observation(1, 0, before, update, buffers, buffers, config, examples=RECORDS)
    threat = ThreatModel(proxy_data=True, client_mode="train" if mode == "train" else "eval")
    scores = LiRA(shadows=4)([one], [], asked(0)[0], threat, victim, generator=stream())
    assert bool(torch.isfinite(scores).all()) and float(scores.std()) > 0.0


@pytest.mark.parametrize(
    ("make", "threat", "missing"),
    [
        (LiRA, ThreatModel(), "proxy_data"),
        (LiRA, replace(GRANTED, learning_rate=False), "learning_rate"),
        (LiRA, replace(GRANTED, local_steps=False), "local_steps"),
        (lambda: GradientMembership(statistic="norm"), ThreatModel(batch_size=False), "batch_size"),
        (lambda: GradientMembership(statistic="norm"), ThreatModel(learning_rate=False), "learning_rate"),
    ],
)
def test_denied_knowledge_stops_the_attack(
    make: Callable[[], MembershipAttack], threat: ThreatModel, missing: str, scene: Scene
) -> None:
    victim, seen = scene
    with pytest.raises(MissingKnowledge, match=missing):
        make()(seen[0], [], asked(0)[0], threat, victim, generator=stream())


def test_loss_and_cosine_need_nothing_but_updates(scene: Scene) -> None:
    victim, seen = scene
    nothing = ThreatModel(
        client_mode=None, batch_size=False, learning_rate=False, local_steps=False, momentum=False
    )
    for make in (LossMembership, GradientMembership):
        scores = make()(seen[0], [], asked(0)[0], nothing, victim, generator=stream())
        assert detection(scores.numpy(), asked(0)[1]).auc > 0.7  # type: ignore[operator]


def test_too_few_others_are_told(scene: Scene) -> None:
    victim, seen = scene
    with pytest.raises(NotApplicable, match="1 other updates were seen in round 1"):
        LossMembership(against_others=True)(
            seen[0], seen[1], asked(0)[0], ThreatModel(), victim, generator=stream()
        )


def test_unusable_observations_are_left_out(scene: Scene) -> None:
    victim, seen = scene
    zero = replace(seen[0][1], update={n: torch.zeros_like(v) for n, v in seen[0][1].update.items()})
    candidates, _ = asked(0)
    attack = LossMembership()
    alone = attack(seen[0][:1], [], candidates, ThreatModel(), victim, generator=stream())
    both = attack([seen[0][0], zero], [zero], candidates, ThreatModel(), victim, generator=stream())
    assert torch.equal(alone, both)
    with pytest.raises(UnusableUpdate, match="zero"):
        attack([zero], [], candidates, ThreatModel(), victim, generator=stream())
    with pytest.raises(NotApplicable, match="no update"):
        attack([], [], candidates, ThreatModel(), victim, generator=stream())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda count: torch.zeros(count + 1), "expected a"),
        (lambda count: torch.full((count,), torch.nan), "not finite"),
        (lambda count: torch.full((count,), torch.inf), "not finite"),
        (lambda count: [0.0] * count, "expected a"),
    ],
)
def test_answers_that_break_the_contract(answer: Callable[[int], Tensor], reason: str, scene: Scene) -> None:
    class Stranger(MembershipAttack):
        def run(self, observations, others, candidates, threat, victim, *, generator, report):  # type: ignore[no-untyped-def]
            assert observations[0].config.batch_size is None and victim.proxy is None  # as the threat has it
            return answer(len(candidates))

    victim, seen = scene
    with pytest.raises(PluginError, match=reason):
        Stranger()(seen[0], [], asked(0)[0], ThreatModel(batch_size=False), victim, generator=stream())


@pytest.mark.parametrize(
    "make",
    [
        lambda: LossMembership(statistic="accuracy"),  # type: ignore[arg-type]
        lambda: GradientMembership(statistic="angle"),  # type: ignore[arg-type]
        lambda: LiRA(shadows=3),
    ],
)
def test_parameters_out_of_range_are_usage_errors(make: Callable[[], MembershipAttack]) -> None:
    with pytest.raises(UsageError, match="expected"):
        make()


def test_no_argument_of_a_membership_attack_carries_the_truth() -> None:
    expected = ["self", "observations", "others", "candidates", "threat", "victim", "generator", "report"]
    for cls in (MembershipAttack, LossMembership, GradientMembership, LiRA):
        for method in (cls.run, cls.__call__):
            assert list(inspect.signature(method).parameters) == expected
    assert set(Candidates.__dataclass_fields__) == {"images", "labels"}
