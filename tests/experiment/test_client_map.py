"""Maps: the same victims at every point, in every mode, with controls; killed, resumed, and on Ray."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fedlab
from fedlab import plugins
from fedlab.audit import Attack, Reconstruction, metrics
from fedlab.errors import Interrupted, ScenarioError, UsageError
from fedlab.experiment import basin
from fedlab.experiment.setup import set_up
from fedlab.scenario import load
from fedlab.tasks import Task
from tests.experiment.crashes import Steps, quick_plugins

AXES = {"task.model.width": [8, 4], "task.model.dropout": [0.0, 0.5], "clients.batch_size": [1, 2]}
POINTS = ["base", "task.model.width=4", "task.model.dropout=0.5", "clients.batch_size=2"]


def scenario(axes: dict[str, list[Any]] | None = None, **changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "schema": 1,
        "seed": 3,
        "name": "mapped",
        "task": {"dataset": "digits", "model": {"name": "mlp", "width": 8, "depth": 1}},
        "clients": {"count": 4, "batch_size": 1, "local_steps": 1, "mode": ["eval", "train"]},
        "strategy": {"rounds": 1, "cohort": 4},
        "runtime": {"executor": "inline"},
        "audit": {"victims": 3},
        "attacks": [{"name": "linear-layer"}],
        "map": {"axes": axes or AXES},
    }
    return base | changes


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def events(out: Path, what: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == what]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("maps") / "run"
    fedlab.run(scenario(), out=out)
    return out


@pytest.fixture(scope="module")
def found(finished: Path) -> dict[str, Any]:
    return dict(read(finished / "map.json"))


def test_every_point_has_both_modes_and_every_attack(finished: Path, found: dict[str, Any]) -> None:
    assert [point["name"] for point in found["points"]] == found["listed"] == POINTS
    for point in found["points"]:
        assert point["failure"] is None
        assert [cell["client_mode"] for cell in point["cells"]] == ["eval", "train"]
        assert all(list(cell["attacks"]) == ["linear-layer"] for cell in point["cells"])
    assert [one["point"] for one in events(finished, "mapped")] == POINTS
    assert not (finished / "map").exists()


def test_victims_are_the_same_everywhere_and_so_are_their_records(found: dict[str, Any]) -> None:
    cells = [cell for point in found["points"] for cell in point["cells"]]
    asked = [
        [(one["round"], one["client"]) for one in cell["attacks"]["linear-layer"]["victims"]]
        for cell in cells
    ]
    assert all(one == asked[0] for one in asked) and len(asked[0]) == 3
    by_point = {point["name"]: [cell["records"] for cell in point["cells"]] for point in found["points"]}
    of_one = by_point["base"][0]
    for name, records in by_point.items():
        assert records[0] == records[1]
        if name != "clients.batch_size=2":
            assert records[0] == of_one
    larger = by_point["clients.batch_size=2"][0]
    assert all(len(two) == 2 and set(one) <= set(two) for one, two in zip(of_one, larger, strict=True))


def test_every_score_has_its_control(found: dict[str, Any]) -> None:
    for point in found["points"]:
        for cell in point["cells"]:
            tried = cell["attacks"]["linear-layer"]
            assert len(tried["control"]) == len(tried["victims"]) == 3
            if (
                point["name"] == "base"
            ):  # one record, a biased first layer: exact, and chance for a random update
                assert min(one["psnr"][0] for one in tried["victims"]) > 80
                assert max(one["psnr"][0] for one in tried["control"]) < 20


def test_the_base_is_the_run_itself(finished: Path, found: dict[str, Any]) -> None:
    for cell in found["points"][0]["cells"]:
        own = read(finished / f"attacks/none-{cell['client_mode']}-s3/linear-layer.json")
        assert [one["psnr"] for one in own["victims"]] == [
            one["psnr"] for one in cell["attacks"]["linear-layer"]["victims"]
        ]


def test_the_report_draws_it(finished: Path) -> None:
    data = read(finished / "report.json")["map"]
    assert [row["name"] for row in data["points"]] == POINTS
    assert 'id="map"' in (finished / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def pageless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without figures a run is twice as fast."""
    quick_plugins(monkeypatch)


@pytest.mark.usefixtures("pageless")
@pytest.mark.parametrize("step", [3, 6])
def test_a_stopped_map_goes_on_and_runs_no_point_twice(finished: Path, tmp_path: Path, step: int) -> None:
    """Each point is two trainings and two attacks: step 4 ends the base, and 5 to 7 lie in the second."""
    out, stopped = tmp_path / "run", False

    def act(what: str, done: int) -> None:
        nonlocal stopped
        if what == "map" and done >= step and not stopped:
            stopped = True
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        fedlab.run(scenario(), out=out, progress=Steps(act))
    left = list((out / "map").glob("*/manifest.json"))
    assert len(left) == (0 if step < 5 else 1)
    fedlab.resume(out)
    assert (out / "map.json").read_bytes() == (finished / "map.json").read_bytes()
    assert (out / "report.json").is_file() and not (out / "map").exists()
    assert [one["point"] for one in events(out, "mapped")] == POINTS


@pytest.mark.usefixtures("pageless")
def test_what_a_kill_leaves_of_a_point_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, trained = tmp_path / "run", []
    real = fedlab.experiment.stages.Training

    class Counted(real):  # type: ignore[misc, valid-type]
        def __init__(self, cell: Any, setup: Any, directory: Any, *rest: Any) -> None:
            trained.append((directory.path.parent.name, cell.mode))
            super().__init__(cell, setup, directory, *rest)

    monkeypatch.setattr(fedlab.experiment.stages, "Training", Counted)
    pressed = False

    def act(what: str, done: int) -> None:
        nonlocal pressed
        if what == "map" and done == 6 and not pressed:  # both modes of the second point are trained
            pressed = True
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        fedlab.run(scenario(), out=out, progress=Steps(act))
    before = len(trained)
    fedlab.resume(out)
    assert before == 4 and len(trained) == 2 * len(POINTS)


def test_a_point_that_comes_to_nothing_says_so(tmp_path: Path) -> None:
    fedlab.run(scenario({"clients.learning_rate": [1e38, 0.2]}), out=tmp_path / "run")
    base, broken, other = read(tmp_path / "run/map.json")["points"]
    assert broken["failure"] and broken["cells"] == []
    assert base["failure"] is None and len(other["cells"]) == 2
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "could not be measured" in page


def test_a_network_of_my_own(tmp_path: Path, small_task: Task) -> None:
    axes = {"clients.batch_size": [1, 2], "clients.local_steps": [1, 3]}
    fedlab.run(scenario(axes), out=tmp_path / "run", task=small_task)
    points = read(tmp_path / "run/map.json")["points"]
    assert [point["name"] for point in points] == ["base", "clients.batch_size=2", "clients.local_steps=3"]
    assert [len(cell["records"][0]) for point in points for cell in point["cells"]] == [1, 1, 2, 2, 3, 3]
    assert all(point["failure"] is None for point in points)
    with pytest.raises(ScenarioError, match="comes from Python"):
        fedlab.run(scenario({"task.model.width": [1]}), out=tmp_path / "other", task=small_task)


def test_a_deployed_grid_has_no_map() -> None:
    with pytest.raises(UsageError, match="simulated clients"):
        set_up(load(scenario()), grid=lambda cell: None)  # type: ignore[arg-type, return-value]


@given(
    share=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]),
    batch=st.integers(1, 3),
    channels=st.sampled_from([1, 3]),
    side=st.integers(1, 9),
)
def test_exactly_that_share_of_pixels_is_replaced(share: float, batch: int, channels: int, side: int) -> None:
    images = torch.full((batch, channels, side, side), -1.0)  # no noise is ever -1
    start = basin.replaced(images, share, torch.Generator().manual_seed(0))
    changed = start != images
    assert torch.equal(changed.all(dim=1), changed.any(dim=1))  # in all channels, or in none
    assert changed.any(dim=1).flatten(1).sum(dim=1).tolist() == [round(share * side * side)] * batch
    assert float(start[changed].min() if changed.any() else 0.0) >= 0.0 and float(start.max()) <= 1.0


def test_more_noise_is_the_same_noise_and_more() -> None:
    images = torch.full((2, 1, 8, 8), -1.0)
    less, more = (basin.replaced(images, share, torch.Generator().manual_seed(5)) for share in (0.25, 0.75))
    replaced = less != images
    assert torch.equal(more[replaced], less[replaced])


class Echo(Attack):
    """Answers with the images from which it is started, or with grey: it goes nowhere."""

    def __init__(self, starts: Sequence[Tensor] | None = None) -> None:
        self.starts = starts

    def starting_from(self, starts: Sequence[Tensor]) -> Attack:
        return Echo(starts)

    def run(
        self, observations: Any, threat: Any, victim: Any, *, generator: Any, report: Any
    ) -> list[Reconstruction]:
        grey = [torch.full((1, *victim.input_shape), 0.5) for _ in observations]
        assert self.starts is None or all(one.labels is not None for one in observations)
        return [Reconstruction(images=images) for images in self.starts or grey]


def test_the_basin_starts_from_the_truth_and_is_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = plugins.build
    monkeypatch.setattr(
        plugins,
        "build",
        lambda kind, spec, *args, **params: (
            Echo() if getattr(spec, "label", "") == "echo" else real(kind, spec, *args, **params)
        ),
    )
    settings = {"axes": {"clients.batch_size": [1]}, "basin": [1.0, 0.0, 0.5], "basin_attack": "echo"}
    attacks = [{"name": "linear-layer"}, {"name": "label-recovery", "label": "echo"}]
    report = fedlab.run(scenario(map=settings, attacks=attacks), out=tmp_path / "run")
    study = read(tmp_path / "run/map.json")["basin"]
    assert study["shares"] == [0.0, 0.5, 1.0] and study["refusal"] is None
    assert [(one["client_mode"], one["share"]) for one in study["curves"]] == [
        (mode, share) for mode in ("eval", "train") for share in (0.0, 0.5, 1.0)
    ]
    for one in study["curves"]:
        assert one["victims"] == one["control"] and len(one["victims"]) == 3
        assert torch.allclose(torch.tensor(one["victims"]), torch.tensor(one["start"]))
        assert (min(map(min, one["start"])) == 200.0) == (one["share"] == 0.0)
    echo = [row for row in report.data["attacks"] if row["attack"] == "echo"]
    assert all(row["psnr_max"] < 20 for row in echo)  # grey, as it answers without a start
    text = " ".join(report.data["map"]["basin"]["findings"])
    assert (
        "0 % of the pixels replaced" in text
        and "a diagnosis" in report.html.read_text(encoding="utf-8").lower()
    )


def test_an_attack_that_starts_from_no_image_has_no_basin(tmp_path: Path) -> None:
    settings = {"axes": {"clients.batch_size": [1]}, "basin": [0.0]}
    report = fedlab.run(scenario(map=settings), out=tmp_path / "run")
    (text,) = report.data["map"]["basin"]["findings"]
    assert text == "There is no basin of linear-layer: LinearLayer does not start from images."


def test_starts_keep_to_their_victims() -> None:
    from fedlab.audit.truth import Truth

    def truth(client: int) -> Truth:
        return Truth(1, client, (client,), torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64))

    both = basin.starts([truth(1), truth(2)], 1.0, seed=3)
    alone = basin.starts([truth(2)], 1.0, seed=3)
    assert torch.equal(both[1], alone[0]) and not torch.equal(both[0], both[1])
    assert float(metrics.psnr(both[0], truth(1).images)) < 15
