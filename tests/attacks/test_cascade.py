"""The cascade: exact first, proofs end it, descents start from what was solved, and it says what it tried."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fedlab_attacks.cascade import Cascade, Case, _kept
from torch import Tensor, nn

from benchmarks.attacks.scene import dataset, observe
from fedlab.audit import Certificate, Reconstruction, ThreatModel
from fedlab.audit.metrics import psnr
from fedlab.audit.observation import random_twin
from fedlab.clients import ClientConfig
from fedlab.errors import UsageError
from tests.attacks.attack_scene import Scene, convnet, mlp, scene, small_mlp, stream

QUICK = Cascade(iterations=60)


def attacked(what: Scene, attack: Cascade = QUICK, threat: ThreatModel | None = None) -> list[Reconstruction]:
    return attack(what.observations, threat or ThreatModel(), what.victim, generator=stream())


def test_a_biased_first_layer_is_proved_and_ends_it() -> None:
    """Dropout is live; the linear layer's certificate is the last one that was tried."""
    digits = scene(small_mlp, victims=3)
    answers = attacked(digits)
    assert digits.median(answers) > 100.0
    for answer, labels in zip(answers, digits.labels, strict=True):
        assert answer.details["found by"] == "linear-layer"
        assert [one.verdict for one in answer.certificates] == ["not applicable", "unique"]
        assert answer.labels is not None and answer.labels.tolist() == labels.tolist()


def test_a_batch_is_solved_by_its_zeros() -> None:
    digits = scene(lambda: mlp(p=0.0, width=200), victims=2, batch=3)
    answers = attacked(digits)
    assert float(digits.psnr(answers).min()) > 60.0
    assert all(one.details["found by"] in ("linear-layer", "sparse-batch") for one in answers)
    assert all(any(c.proves for c in one.certificates) for one in answers)


def test_what_no_closed_form_solves_is_descended() -> None:
    """A sigmoid network without a way back: two convolutions of which the second narrows."""

    def narrow() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2, padding=1),
            nn.Sigmoid(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 10),
        )

    digits = scene(narrow, victims=2, mode="eval")
    answers = attacked(digits, threat=ThreatModel(client_mode="eval"))
    for answer in answers:
        assert "started from" in answer.details and answer.images is not None
        assert not any(one.proves for one in answer.certificates) and len(answer.certificates) >= 4


def test_without_descents_it_refuses_and_lists_what_it_tried() -> None:
    digits = scene(lambda: nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)), victims=1)
    (answer,) = attacked(digits, Cascade(iterations=0))
    assert answer.images is None and answer.refusal is not None
    for method in ("patch embedding", "layer peel", "sparse batch"):
        assert f"{method}: not applicable because" in answer.refusal


def test_on_a_random_update_nothing_is_proved_and_it_scores_at_chance() -> None:
    digits = scene(small_mlp, victims=4)
    twins = [random_twin(one, stream(5)) for one in digits.observations]
    answers = QUICK(twins, ThreatModel(), digits.victim, generator=stream())
    assert not any(one.proves for answer in answers for one in answer.certificates)
    assert digits.median(answers) < 15.0


def test_knowledge_that_is_denied_costs_stages_not_the_attack() -> None:
    """Without the batch size the linear layer still solves one record: its rank says that it is one."""
    digits = scene(small_mlp, victims=1)
    (answer,) = attacked(digits, threat=ThreatModel(batch_size=False, learning_rate=False))
    assert answer.images is not None and float(psnr(answer.images, digits.images[0])) > 100.0


def test_alone_as_in_company() -> None:
    digits = scene(convnet, victims=2, mode="eval")
    threat = ThreatModel(client_mode="eval")
    together = attacked(digits, threat=threat)
    (alone,) = QUICK(digits.observations[1:], threat, digits.victim, generator=stream())
    assert alone.images is not None and together[1].images is not None
    torch.testing.assert_close(alone.images, together[1].images, atol=1e-4, rtol=0.0)


def images(*values: float) -> Tensor:
    return torch.stack([torch.full((1, 2, 2), value) for value in values])


def test_confirmed_records_replace_the_nearest_of_a_descent() -> None:
    """Confirmed 0.5 takes the place of 0.4; the descent's 0.9 stays."""
    partial = Reconstruction(images=images(0.5, 0.0), details={"confirmed": 1})
    found = _kept(Reconstruction(images=images(0.9, 0.4)), partial)
    assert found.images is not None and found.images[:, 0, 0, 0].tolist() == pytest.approx([0.9, 0.5])
    assert _kept(found, None) is found
    doubted = replace(partial, details={"confirmed": 1, "proven": 0})
    assert _kept(found, doubted) is found


def test_a_proof_ends_a_case_and_the_better_guess_is_kept() -> None:
    case = Case(scene(victims=1).observations[0])
    guess = Reconstruction(images=images(0.1), residual=0.5)
    case.take("first", guess)
    case.take("worse", replace(guess, residual=0.9))
    assert case.answer is None and case.partial is not None and case.partial.details["found by"] == "first"
    case.take("proof", replace(guess, certificates=(Certificate("proof", "unique"),)))
    assert case.answer is not None and case.answer.details["found by"] == "proof"


def test_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="expected at least 0"):
        Cascade(iterations=-1)


def test_several_plain_steps_are_descended_in_the_span_of_the_first_layer() -> None:
    data, _ = dataset("digits")
    config = ClientConfig(batch_size=2, local_epochs=2, learning_rate=0.01, momentum=0.9)
    seen = observe(lambda: mlp(p=0.0, width=64), data, config, victims=1, records=4, seed=3)
    (answer,) = QUICK(seen.observations, ThreatModel(), seen.victim, generator=stream())
    assert str(answer.details["found by"]).startswith("local-steps") or any(
        one.proves for one in answer.certificates
    )
    assert seen.median([answer]) > 20.0
