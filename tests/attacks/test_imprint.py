"""The imprint isolates records, proves it only where every record has a bin, and refuses what breaks it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_scene import IMAGES, LABELS, Scene, scene, stream
from fedlab_attacks.exact.imprint import Imprint
from torch import nn

from fedlab.audit.disclosure import Disclosure
from fedlab.audit.metrics import match, psnr
from fedlab.audit.observation import Observation, random_twin
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Proxy, Victim
from fedlab.clients.config import ClientConfig
from fedlab.errors import MissingKnowledge, UsageError
from fedlab.tasks import FunctionalModel, State, cross_entropy, initialise

MALICIOUS = ThreatModel(server="malicious", proxy_data=True)
SHAPE = (1, 8, 8)


def agreed() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def malicious(attack: Imprint, batch: int, victims: int = 3, proxy: bool = True) -> Scene:
    """Clients that took a step on what the attack made of the network; half the digits are the attacker's."""
    model = FunctionalModel(initialise(attack.network(agreed, SHAPE), 0), SHAPE)
    held = Proxy(IMAGES[900:], LABELS[900:]) if proxy else None
    victim = Victim(model, cross_entropy, SHAPE, 10, proxy=held)
    state = attack.parameters(model.state(), victim, generator=stream())
    config = ClientConfig(batch_size=batch, local_steps=1, learning_rate=0.1)
    found = Scene(victim, [], [], [])
    for client in range(victims):
        ids = torch.randperm(900, generator=stream(client))[:batch]
        slope = victim.gradient(state, {}, IMAGES[ids], LABELS[ids], training=False)
        update = {name: (state[name] - 0.1 * slope[name]) - state[name] for name in state}
        found.observations.append(Observation(1, client, state, update, {}, {}, config, examples=batch))
        found.images.append(IMAGES[ids])
        found.labels.append(LABELS[ids])
    return found


@pytest.mark.parametrize("proxy", [True, False])
def test_records_alone_in_a_bin_come_back(proxy: bool) -> None:
    attack = Imprint(bins=600, mean=0.3, deviation=0.05)
    real = malicious(attack, 8, proxy=proxy)
    answers = attack(real.observations, MALICIOUS, real.victim, generator=stream())
    exact = 0
    for answer, truth in zip(answers, real.images, strict=True):
        assert answer.images is not None and answer.residual < 1e-4
        pairs = [(i, j) for i, j in enumerate(match(answer.images, truth)) if j is not None]
        scores = psnr(answer.images[[j for _, j in pairs]], truth[[i for i, _ in pairs]])
        exact += int((scores > 60.0).sum())
        (certificate,) = answer.certificates
        assert certificate.rank == answer.details["bins that answer"]
        if certificate.proves:
            assert float(scores.min()) > 60.0 and len(scores) == 8
    assert (
        exact >= 18
    )  # of 24; a bin is shared with probability 1 - (1 - 1/600)^7 = 1.2 % if h were continuous


def test_shared_bins_are_not_certified() -> None:
    """Two bins for six records: at most two answer, and four records are somewhere in them."""
    attack = Imprint(bins=2)
    real = malicious(attack, 6, victims=1)
    (answer,) = attack(real.observations, MALICIOUS, real.victim, generator=stream())
    (certificate,) = answer.certificates
    assert certificate.verdict == "not unique" and "share a bin" in certificate.reason
    assert certificate.null_space == (6 - int(answer.details["bins that answer"])) * 65


def test_by_hand_the_block_measures_brightness_at_quantiles() -> None:
    """Rows of one number, cuts at the quartiles of the proxy's brightness, the lowest below all."""
    attack = Imprint(bins=4)
    model = FunctionalModel(attack.network(agreed, SHAPE)(), SHAPE)
    images = torch.linspace(0.0, 1.0, 5)[:, None, None, None].expand(5, *SHAPE)
    victim = Victim(model, cross_entropy, SHAPE, 10, proxy=Proxy(images, torch.zeros(5, dtype=torch.int64)))
    state = attack.parameters(model.state(), victim, generator=stream())
    rows, biases = state["imprint.measure.weight"], state["imprint.measure.bias"]
    assert bool((rows == rows[0, 0]).all())
    cuts = -biases / rows.sum(dim=1)
    torch.testing.assert_close(cuts, torch.tensor([-1.0, 0.25, 0.5, 0.75]), atol=1e-5, rtol=0)
    columns = state["imprint.give_back.weight"]
    assert bool((columns == columns[:, :1]).all())
    assert {name for name in state if not name.startswith("imprint.")} == {
        f"net.{name}" for name in agreed().state_dict()
    }


def test_the_network_can_still_be_trained() -> None:
    """What the block adds to an image is small beside it."""
    attack = Imprint(bins=500)
    real = malicious(attack, 4, victims=1)
    net = real.victim.model.net
    net.load_state_dict(real.observations[0].before)
    with torch.no_grad():
        changed = net.get_submodule("imprint")(real.images[0])
    assert float((changed - real.images[0]).abs().max()) < 0.2


def test_noise_is_never_certified() -> None:
    attack = Imprint(bins=100)
    real = malicious(attack, 4, victims=1)
    (observation,) = real.observations
    twin = random_twin(observation, stream())
    noisy = {n: v + 1e-3 * twin.update[n] for n, v in observation.update.items()}
    for update in (noisy, twin.update):
        (answer,) = attack([replace(observation, update=update)], MALICIOUS, real.victim, generator=stream())
        assert answer.refusal is not None and "noise" in answer.refusal
        assert answer.certificates[0].verdict == "not applicable"


def pruned(update: State, share: float, each: bool) -> State:
    """Without the smallest entries: of all together, or of each tensor on its own."""
    if each:
        return {name: pruned({name: value}, share, False)[name] for name, value in update.items()}
    sizes = torch.cat([value.flatten().abs() for value in update.values()]).sort().values
    least = sizes[int(share * len(sizes))]
    return {name: torch.where(value.abs() >= least, value, 0.0) for name, value in update.items()}


@pytest.mark.parametrize(("share", "each"), [(0.5, True), (0.8, False)])
@pytest.mark.parametrize("batch", [2, 8])
def test_a_pruned_update_is_not_certified(batch: int, share: float, each: bool) -> None:
    """One ratio per bin fits it, so that the residual is no witness; what is still proven is right."""
    attack = Imprint(bins=600, mean=0.3, deviation=0.05)
    real = malicious(attack, batch, victims=6)
    cut = [replace(one, update=pruned(dict(one.update), share, each)) for one in real.observations]
    honest = attack(real.observations, MALICIOUS, real.victim, generator=stream())
    answers = attack(cut, MALICIOUS, real.victim, generator=stream())
    caught = 0
    for answer, before, truth in zip(answers, honest, real.images, strict=True):
        (certificate,), (proven,) = answer.certificates, before.certificates
        caught += proven.proves and not certificate.proves
        if certificate.proves:
            assert answer.images is not None
            order = [j for j in match(answer.images, truth) if j is not None]
            assert float(psnr(answer.images[order], truth).min()) > 60.0
    assert caught >= 4


def test_zeros_that_cannot_be_are_told() -> None:
    """By hand: the rows that both of two records open lose pixels that those of one record still have."""
    attack = Imprint(bins=600, mean=0.3, deviation=0.05)
    real = malicious(attack, 2, victims=1)
    (observation,) = real.observations
    (before,) = attack([observation], MALICIOUS, real.victim, generator=stream())
    assert before.certificates[0].proves
    sent = observation.before
    seen = real.images[0].flatten(1) @ sent["imprint.measure.weight"].T + sent["imprint.measure.bias"]
    rows = observation.update["imprint.measure.weight"].clone()
    rows[(seen > 0).all(dim=0), :32] = 0.0
    update = {**observation.update, "imprint.measure.weight": rows}
    (answer,) = attack([replace(observation, update=update)], MALICIOUS, real.victim, generator=stream())
    (certificate,) = answer.certificates
    assert certificate.verdict == "not unique"
    assert "exactly zero that cannot be" in certificate.reason and "own bin" in certificate.reason


def test_what_breaks_it_is_refused() -> None:
    attack = Imprint(bins=100)
    honest = scene(victims=1)
    (answer,) = attack(honest.observations, MALICIOUS, honest.victim, generator=stream())
    assert answer.refusal is not None and "not sent the imprint" in answer.refusal
    real = malicious(attack, 4, victims=1)
    more = replace(real.observations[0], config=replace(real.observations[0].config, local_steps=3))
    (answer,) = attack([more], MALICIOUS, real.victim, generator=stream())
    assert answer.refusal is not None and "moves the bins" in answer.refusal


def test_a_curious_server_has_no_imprint() -> None:
    real = malicious(Imprint(bins=10), 2, victims=1)
    with pytest.raises(MissingKnowledge, match="altered models"):
        Imprint(bins=10)(real.observations, ThreatModel(), real.victim, generator=stream())


@pytest.mark.parametrize("wrong", [{"bins": 1}, {"mean": 2.0}, {"deviation": 0.0}])
def test_parameters_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Imprint(**wrong)  # type: ignore[arg-type]


def test_uncounted_steps_leave_the_number_of_records_open() -> None:
    attack = Imprint(bins=600, mean=0.3, deviation=0.05)
    real = malicious(attack, 1, victims=1)
    blind = replace(MALICIOUS, local_steps=False)
    for threat, proves in ((MALICIOUS, True), (blind, False)):
        (answer,) = attack(real.observations, threat, real.victim, generator=stream())
        assert answer.images is not None and answer.certificates[0].proves == proves


def test_where_records_are_transformed_a_bin_holds_no_proven_record() -> None:
    attack = Imprint(bins=600, mean=0.3, deviation=0.05)
    real = malicious(attack, 1, victims=1)
    told = replace(real.victim, disclosure=Disclosure(altered=True))
    (answer,) = attack(real.observations, MALICIOUS, told, generator=stream())
    assert answer.images is not None and answer.certificates[0].verdict == "not unique"
    assert answer.certificates[0].reason == "what was trained on is a transformed or mixed record"
