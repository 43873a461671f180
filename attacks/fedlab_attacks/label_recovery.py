"""Labels from the gradient of the last layer.

With softmax cross entropy the bias gradient of class c is, exactly, the mean predicted probability minus the
share of the label:

    ∂b_c = mean_i p_ic - n_c / B        so        n_c = B (mean_i p_ic - ∂b_c).

- One record: only its own label has a negative entry. B. Zhao, K. Mopuri and H. Bilen, "iDLG: Improved Deep
  Leakage from Gradients", 2020, https://arxiv.org/abs/2001.02610, equation 6. Exact, and free of scale.
- A batch: p is not known to a server, so it is taken from the current model on dummy images; A. Wainakh et
  al., "User-Level Label Leakage from Gradients in Federated Learning", PETS 2022,
  https://doi.org/10.2478/popets-2022-0043, call that the white-box variant. What is not guessed is the
  bound that follows from p >= 0: n_c >= -B ∂b_c. It is allotted first, the rest by the largest n_c left.

Near-exact on an untrained network, whose p hardly depends on the image; as the network learns, p moves away
from what dummy images show, and only the bound remains. A head without bias is read through its weight
gradient ∂W_c = mean_i (p_ic - y_ic) h_i: one record by the row of the largest norm (the label's error is the
sum of all the others'), a batch by row sums, which are ∂b_c times the mean sum of features. That factor is
taken to be the least for which no n_c is negative: right if a class is absent, too small in large batches.

What is known of the clients' defense counts: a parameter that it distorts is not read. Of signs alone, a
class of a negative bias gradient is there at least once, and the rest are shared out among those by p; of an
update that was left out in part, a bias of one record falls back on the weights.

Weight decay that is known is taken out of the update first; momentum that is known counts in the scale of
several steps, which are read as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedlab.audit.attack import Attack, Reconstruction, Report
from fedlab.audit.observation import Observation
from fedlab.audit.threat import ThreatModel
from fedlab.audit.victim import Victim
from fedlab.errors import Contradiction, NotApplicable
from fedlab_attacks.exact.algebra import measured, trained
from fedlab_attacks.reading import Seen, batch_size, probe

DUMMIES = 256


def recover_labels(
    observation: Observation,
    threat: ThreatModel,
    victim: Victim,
    batch: int,
    *,
    generator: torch.Generator,
) -> Tensor:
    """(batch,) int64 labels in ascending order, or in the client's order where the threat model grants them.

    Raises:
        Contradiction: labels are granted, and are not as many as the records, or not those of the update.
        NotApplicable: the labels are not granted, and the head is not linear or (for a batch) the learning
            rate or the number of steps, which give the gradient's scale, are denied.
    """
    granted = observation.labels if threat.grants("labels") else None
    if granted is not None and len(granted) != batch:
        raise Contradiction(
            f"{len(granted)} labels are granted for a batch of {batch}; expected one for each record:"
            " correct the batch size or the labels"
        )
    if granted is not None and batch > 1:
        return granted
    dummies = torch.rand(DUMMIES, *victim.input_shape, generator=generator)
    dummies = dummies * torch.rand(DUMMIES, *([1] * len(victim.input_shape)), generator=generator)
    state = {**observation.before, **observation.buffers_before}
    layers = probe(victim, state, dummies[:2])  # which layers there are, any image tells
    if granted is not None:
        _check_single(observation, victim, layers, int(granted))
        return granted
    head = _head(victim, layers)
    distorted = victim.disclosure.distorted
    biased = head.layer.bias is not None and f"{head.name}.bias" not in distorted
    if not biased and f"{head.name}.weight" in distorted:
        raise NotApplicable(f"the defense distorts {head.name}, off which labels are read; grant labels")
    if batch == 1:
        return _single(observation, head, biased)
    if victim.disclosure.sent == "signs" and not observation.parts:
        return _of_signs(observation, victim, head, biased, batch, dummies)
    rate = observation.config.learning_rate
    if not rate or not threat.grants("local_steps"):
        raise NotApplicable(
            "the labels of a batch need the gradient's scale: grant learning_rate and local_steps, or labels"
        )
    scale = 1.0 / trained(observation, 0.0, 1.0)  # minus the learning rates, with momentum, of all steps
    outputs, _ = victim.model(state, dummies, training=False)
    predicted = outputs.softmax(1).double().mean(0)
    if biased:
        slope = measured(observation, f"{head.name}.bias").values[:, 0] * scale
    else:
        sums = measured(observation, f"{head.name}.weight").values.sum(1) * scale
        slope = sums / (sums / predicted).max().clamp_min(1e-30)
    counts = allot(predicted, slope, batch)
    return torch.repeat_interleave(torch.arange(victim.classes), counts)


def allot(predicted: Tensor, slope: Tensor, batch: int) -> Tensor:
    """Whole numbers n_c of sum `batch`, from mean probabilities (C,) and the bias gradient (C,).

    >>> allot(torch.full((4,), 0.25), torch.tensor([-0.25, 0.0, 0.25, 0.0]), 4)
    tensor([2, 1, 0, 1])
    """
    estimate = (batch * (predicted - slope)).nan_to_num()
    # n_c >= -B ∂b_c; a thousandth of a record forgives rounding
    counts = (-batch * slope - 1e-3).ceil().clamp_min(0).nan_to_num()
    if counts.sum() > batch:  # not a softmax gradient (noise was added): no bound holds
        counts = torch.zeros_like(estimate)
    while counts.sum() < batch:
        counts[(estimate - counts).argmax()] += 1
    return counts.long()


def _head(victim: Victim, layers: Sequence[Seen]) -> Seen:
    """The last layer that runs, if it is linear and has one output per class."""
    last = layers[-1] if layers else None
    if last is None or not isinstance(last.layer, nn.Linear) or last.layer.out_features != victim.classes:
        kind = type(last.layer).__name__ if last else "nothing"
        raise NotApplicable(
            f"labels are read off a linear last layer with {victim.classes} outputs; the network ends in"
            f" {kind}; grant labels to the attacker instead"
        )
    return last


def _check_single(observation: Observation, victim: Victim, layers: Sequence[Seen], label: int) -> None:
    """Contradiction if the head's bias says clearly that one record's label is another.

    Clearly: its gradient sums to zero, as that of a softmax does without noise, and has one negative entry.
    """
    last = layers[-1] if layers else None
    if last is None or not isinstance(last.layer, nn.Linear) or last.layer.bias is None:
        return
    change = measured(observation, f"{last.name}.bias")
    entries = change.values[:, 0]
    clear = len(entries) == victim.classes and float(entries.sum().abs()) <= change.noise
    if clear and int((entries > change.rounding).sum()) == 1 and int(entries.argmax()) != label:
        raise Contradiction(
            f"the label {label} is granted; the last layer's bias moved as it does for label"
            f" {int(entries.argmax())} and no other: correct the label, or grant none"
        )


def _single(observation: Observation, head: Seen, biased: bool) -> Tensor:
    """The label of one record; without weight decay the update is minus the gradient, up to a factor > 0."""
    if biased:
        bias = measured(observation, f"{head.name}.bias").values
        if bool((bias > 0).any()):
            return bias.argmax().view(1)
    weight = measured(observation, f"{head.name}.weight").values
    if len(weight) == 2:  # both rows have the same norm: rely on features being positive on balance
        return weight.sum(1).argmax().view(1)
    return weight.square().sum(1).argmax().view(1)


def _of_signs(
    observation: Observation, victim: Victim, head: Seen, biased: bool, batch: int, dummies: Tensor
) -> Tensor:
    """Labels of a batch of whose gradient only signs were sent."""
    change = measured(observation, f"{head.name}.{'bias' if biased else 'weight'}").values.sum(1)
    outputs, _ = victim.model({**observation.before, **observation.buffers_before}, dummies, training=False)
    predicted = outputs.softmax(1).double().mean(0)
    present = change > 0 if bool((change > 0).any()) else torch.ones_like(change, dtype=torch.bool)
    order = torch.where(present, predicted, -1.0).argsort(descending=True)
    order = order[: int(present.sum())]
    return order.repeat(-(-batch // len(order)))[:batch].sort().values


class LabelRecovery(Attack):
    """Answers with labels only, no images."""

    needs: ClassVar = frozenset({"batch_size"})
    informed: ClassVar[bool] = True
    paper: ClassVar[str] = "Zhao, Mopuri and Bilen, iDLG: Improved Deep Leakage from Gradients, arXiv 2020"

    def run(
        self,
        observations: Sequence[Observation],
        threat: ThreatModel,
        victim: Victim,
        *,
        generator: torch.Generator,
        report: Report,
    ) -> list[Reconstruction]:
        answers = []
        for done, observation in enumerate(observations, start=1):
            answers.append(self._one(observation, threat, victim, generator))
            report(done, len(observations))
        return answers

    def _one(
        self, observation: Observation, threat: ThreatModel, victim: Victim, generator: torch.Generator
    ) -> Reconstruction:
        batch = batch_size(observation, threat)
        if batch is None:
            return Reconstruction.refused(
                "the batch size is unknown: the client uses all its records and does not say how many"
            )
        granted = threat.grants("labels") and observation.labels is not None
        try:
            labels = recover_labels(observation, threat, victim, batch, generator=generator)
        except NotApplicable as error:
            return Reconstruction.refused(error)
        return Reconstruction(
            labels=labels, details={"batch": batch, "labels": "granted" if granted else "inferred"}
        )
