"""What the recorder sees of training loops as people write them, and that they do not notice."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as imported_cross_entropy
from torch.nn.modules import module as modules
from torch.optim import optimizer as optimizers
from torch.overrides import _get_current_function_mode_stack

from fedlab.apps.contract import Recording
from fedlab.apps.recorder import Recorder

Loss = Callable[[Tensor, Tensor], Tensor]


def batches(count: int, size: int = 3) -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(count)
    return [
        (torch.randn(size, 4, generator=draws), torch.randint(3, (size,), generator=draws))
        for _ in range(count)
    ]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))


def trained(
    model: nn.Module, data: list[tuple[Tensor, Tensor]], loss: Loss, optimizer: torch.optim.Optimizer
) -> None:
    for inputs, targets in data:
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()


def sgd(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.5, **settings})


def recorded(model: nn.Module, data: list[tuple[Tensor, Tensor]], loss: Loss = F.cross_entropy) -> Recording:
    with Recorder() as recorder:
        trained(model, data, loss, sgd(model))
    return recorder.recording()


def test_batches_are_recorded_and_replay_to_the_update() -> None:
    model, data = nn.Linear(4, 3), batches(2)
    found = recorded(model, data)
    assert [torch.equal(step.inputs, x) for step, (x, _) in zip(found.steps, data, strict=True)] == [
        True,
        True,
    ]
    assert [step.targets.tolist() for step in found.steps if step.targets is not None] == [
        y.tolist() for _, y in data
    ]
    again = found.network
    assert again is not None and again is not model
    trained(again, [(step.inputs, step.targets) for step in found.steps], F.cross_entropy, sgd(again))  # type: ignore[misc]
    for mine, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert (found.loss, found.training, found.notes, found.dropped) == ("cross_entropy", True, (), 0)


def test_the_recorder_changes_no_bit() -> None:
    """Weights, statistics and what is drawn next, with batch norm, dropout and momentum."""
    results = []
    for record in (False, True):
        model = network()
        optimizer = sgd(model, momentum=0.9, weight_decay=1e-3)
        torch.manual_seed(1)
        if record:
            with Recorder() as recorder:
                trained(model, batches(5), nn.CrossEntropyLoss(), optimizer)
            assert len(recorder.recording().steps) == 5
        else:
            trained(model, batches(5), nn.CrossEntropyLoss(), optimizer)
        results.append((model.state_dict(), torch.rand(3)))
    (plain, drawn), (watched, also_drawn) = results
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    assert torch.equal(drawn, also_drawn)


def test_gradient_accumulation_is_one_step() -> None:
    model, data = nn.Linear(4, 3), batches(4)
    optimizer = sgd(model)
    with Recorder() as recorder:
        for index, (inputs, targets) in enumerate(data):
            (F.cross_entropy(model(inputs), targets) / 2).backward()
            if index % 2:
                optimizer.step()
                optimizer.zero_grad()
    steps = recorder.recording().steps
    assert [len(step.inputs) for step in steps] == [6, 6]
    assert torch.equal(steps[0].inputs, torch.cat([data[0][0], data[1][0]]))
    assert steps[1].targets is not None and steps[1].targets.tolist() == [*data[2][1], *data[3][1]]


def test_evaluation_is_not_training() -> None:
    """Neither with no_grad nor where it was forgotten, before, between and after the steps."""
    model, data = nn.Linear(4, 3), batches(2)
    optimizer = sgd(model)
    with Recorder() as recorder:
        for inputs, targets in data:
            with torch.no_grad():
                F.cross_entropy(model(inputs * 2), targets)
            F.cross_entropy(model(inputs * 3), targets).item()
            trained(model, [(inputs, targets)], nn.CrossEntropyLoss(), optimizer)
        F.cross_entropy(model(data[0][0] * 5), data[0][1]).item()
    steps = recorder.recording().steps
    assert [torch.equal(step.inputs, x) for step, (x, _) in zip(steps, data, strict=True)] == [True, True]


def test_batch_norm_of_the_copy_is_that_from_before() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = recorded(model, batches(2))
    assert found.network is not None
    after = model.state_dict()
    for name, value in found.network.state_dict().items():
        assert torch.equal(value, before[name]) and not torch.equal(value, after[name]), name


def test_a_model_that_is_filled_after_its_first_forward_is_copied_again() -> None:
    model, received = nn.Linear(4, 3), {"weight": torch.ones(3, 4), "bias": torch.ones(3)}
    with Recorder() as recorder:
        model(torch.zeros(1, 4))
        model.load_state_dict(received)
        trained(model, batches(1), F.cross_entropy, sgd(model))
    copied = recorder.recording().network
    assert copied is not None and torch.equal(copied.weight, torch.ones(3, 4))


class Focal(nn.Module):
    """A loss of one's own."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        each = F.cross_entropy(logits, targets, reduction="none")
        return ((1 - torch.exp(-each)) * each).mean()


@pytest.mark.parametrize(
    ("loss", "name", "settings"),
    [
        (nn.CrossEntropyLoss(), "CrossEntropyLoss", {}),
        (
            nn.CrossEntropyLoss(label_smoothing=0.1, weight=torch.tensor([1.0, 2.0, 3.0])),
            "CrossEntropyLoss",
            {"label_smoothing": 0.1, "weight": [1.0, 2.0, 3.0]},
        ),
        (lambda x, y: F.nll_loss(x.log_softmax(1), y, reduction="sum"), "nll_loss", {"reduction": "sum"}),
        (lambda x, y: imported_cross_entropy(input=x, target=y), "cross_entropy", {}),
        (lambda x, y: nn.CrossEntropyLoss()(x, target=y), "cross_entropy", {}),
        (lambda x, y: F.cross_entropy(x, y) + F.mse_loss(x.mean(), torch.zeros(())), "cross_entropy", {}),
        (lambda x, y: F.cross_entropy(x, y) + 0.1 * F.cross_entropy(x * 2, y), "cross_entropy", {}),
        (Focal(), "Focal", {}),
    ],
)
def test_losses(loss: Loss, name: str, settings: dict[str, Any]) -> None:
    data = batches(1)
    found = recorded(nn.Linear(4, 3), data, loss)
    assert (found.loss, found.loss_settings) == (name, settings)
    assert found.steps[0].targets is not None and found.steps[0].targets.tolist() == data[0][1].tolist()


def test_a_loss_by_hand_has_no_targets() -> None:
    found = recorded(nn.Linear(4, 3), batches(1), lambda x, y: -x.log_softmax(1)[range(3), y].mean())
    assert found.loss == "" and found.steps[0].targets is None and len(found.steps[0].inputs) == 3


def test_what_stepped() -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.8, 0.9))
    with Recorder() as recorder:
        trained(model, batches(1), F.cross_entropy, optimizer)
        optimizer.param_groups[0]["lr"] = 0.001
        trained(model, batches(1), F.cross_entropy, optimizer)
    found = recorder.recording()
    assert found.optimizer is not None and found.optimizer.name == "AdamW"
    assert (found.optimizer.settings["lr"], found.optimizer.settings["betas"]) == (0.01, (0.8, 0.9))
    assert "params" not in found.optimizer.settings
    assert found.notes == ("lr of AdamW did not stay 0.01",)


def test_a_gradient_that_is_sent_as_it_is_makes_one_step() -> None:
    model, ((inputs, targets),) = nn.Linear(4, 3), batches(1)
    with Recorder() as recorder:
        torch.autograd.grad(F.cross_entropy(model(inputs), targets), list(model.parameters()))
    found = recorder.recording()
    assert found.optimizer is None and len(found.steps) == 1 and torch.equal(found.steps[0].inputs, inputs)


def test_a_closure_is_one_step() -> None:
    model, ((inputs, targets),) = nn.Linear(4, 3), batches(1)
    optimizer = sgd(model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    with Recorder() as recorder:
        optimizer.step(closure)  # type: ignore[arg-type]
    assert [len(step.inputs) for step in recorder.recording().steps] == [3]


class Named(nn.Module):
    """Takes its input by name, and writes to it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layer(pixels)  # type: ignore[no-any-return]


class Writing(Named):
    """Writes to its input."""

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layer(pixels.mul_(2.0))  # type: ignore[no-any-return]


def test_inputs_are_kept_as_they_were_given() -> None:
    ((inputs, targets),) = batches(1)
    original = inputs.clone()
    found = recorded(Writing(), [(inputs, targets)])
    assert torch.equal(inputs, 2 * original) and torch.equal(found.steps[0].inputs, original)
    model = Named()
    with Recorder() as recorder:
        F.cross_entropy(model(pixels=original), targets).backward()
    assert torch.equal(recorder.recording().steps[0].inputs, original)


def test_what_cannot_be_recorded_is_said() -> None:
    """A head on a body of its own, a dictionary of no tensors, a network that cannot be copied."""
    body, head = nn.Linear(4, 4), nn.Linear(4, 3)
    ((inputs, targets),) = batches(1)
    with Recorder() as recorder:
        F.cross_entropy(head(body(inputs)), targets).backward()
    found = recorder.recording()
    assert torch.equal(found.steps[0].inputs, inputs) and isinstance(found.network, nn.Linear)
    assert found.notes == ("Linear was trained on the output of another module, and is not recorded",)

    class Texts(nn.Linear):
        def forward(self, texts: Any) -> Tensor:
            return super().forward(torch.ones(len(texts), 4))

    with Recorder() as recorder:
        F.cross_entropy(Texts(4, 3)(["a", "b", "c"]), targets).backward()
    found = recorder.recording()
    assert (len(found.steps), found.dropped) == (0, 1) and "not one tensor" in found.notes[0]

    stuck = nn.Linear(4, 3)
    stuck.scale = stuck.weight * 2  # a tensor amid a graph
    found = recorded(stuck, [(inputs, targets)])
    assert found.network is None and len(found.steps) == 1 and "cannot be copied" in found.notes[0]


def test_memory_is_bounded_and_the_rest_is_counted() -> None:
    """A batch of three rows takes 3 · 4 · 4 + 3 · 8 = 72 bytes."""
    model = nn.Linear(4, 3)
    with Recorder(limit=150) as recorder:
        trained(model, batches(5), F.cross_entropy, sgd(model))
    found = recorder.recording()
    assert (len(found.steps), found.dropped, recorder.kept) == (2, 3, 144)
    assert found.notes == ("only 0 MB of batches are kept",)


def hooks() -> int:
    return sum(
        len(one)
        for one in (
            modules._global_forward_pre_hooks,
            modules._global_forward_hooks,
            optimizers._global_optimizer_pre_hooks,
            optimizers._global_optimizer_post_hooks,
            _get_current_function_mode_stack(),
        )
    )


def test_nothing_is_left_behind_even_by_a_client_that_fails() -> None:
    before = hooks()
    with pytest.raises(RuntimeError, match="mat1"), Recorder():
        assert hooks() == before + 5
        nn.Linear(4, 3)(torch.ones(2, 5))
    assert hooks() == before


def test_a_forward_that_raised_does_not_hide_the_next() -> None:
    model, data = nn.Linear(4, 3), batches(1)
    with Recorder() as recorder:
        with pytest.raises(RuntimeError):
            nn.Sequential(model)(torch.ones(2, 5))
        trained(model, data, F.cross_entropy, sgd(model))
    assert len(recorder.recording().steps) == 1
