"""The study of norms: its intervals by hand, and that a run that was stopped goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.attacks import full_map, norm_study
from benchmarks.attacks.norm_study import Found, Study, halved, paired
from benchmarks.attacks.scene import dataset
from benchmarks.harness import read


def test_a_paired_interval_by_hand() -> None:
    """Gaps 1 and 3: mean 2, standard error 1, and Student's t with one degree of freedom is 12.706."""
    difference = paired([2.0, 5.0], [1.0, 2.0])
    ends = (difference.low, difference.mean, difference.high)
    assert ends == pytest.approx((-10.706, 2.0, 14.706), abs=1e-3)


def test_rows_are_judged_by_the_upper_end_of_their_interval() -> None:
    worse, better = [10.0, 10.0, 12.0, 12.0], [20.0, 20.0, 22.0, 22.0]  # two victims of two images
    psnrs = {
        f"{order}, {attack}": worse for order in ("pre", "post") for attack in ("none", "proxy", "exact")
    }
    found = Found({**psnrs, "pre, none": better}, 2)
    assert found.means("pre", "none") == [20.0, 22.0] and found.median("pre", "none") == 21.0
    judged = {row.what.split(":")[0]: row for row in found.rows() if row.bar}
    assert [what for what, row in judged.items() if not row.met] == [
        "pre-activation, proxy - none",
        "pre-activation, exact - none",
    ]
    assert judged["none, pre - post"].value == 10.0
    assert "2 victims" in found.power()


def test_halved_images_are_means_of_four_pixels() -> None:
    data, _ = dataset("digits")
    small = halved(data)
    assert small.shape == (1, 4, 4)
    np.testing.assert_allclose(small.x[0, 0, 0, 0], data.images([0])[0, 0, :2, :2].mean(), rtol=1e-6)


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_study, "ROOT", tmp_path)
    data, _ = dataset("digits")
    network = {"depth": 1, "stages": 1, "width": 2, "head": "average"}
    study = Study(data, network, batch=2, victims=2, iterations=2, seed=0, proxies=1)
    kept = tmp_path / "build" / f"norm study, {study}.json"
    kept.parent.mkdir()
    kept.write_text(json.dumps({"pre, none": [1.0, 2.0, 3.0, 4.0]}))
    tiny = "--data digits --depth 1 --stages 1 --width 2 --batch 2 --victims 2 --iterations 2 --proxies 1"
    full_map.main([*tiny.split(), "--device", "cpu", "--output", str(tmp_path)])
    found = read(tmp_path / "attack_norm_order_full.json").measurements["psnr"]
    assert found["pre, none"] == [1.0, 2.0, 3.0, 4.0]
    assert len(found) == 6 and all(len(values) == 4 for values in found.values())
    assert not kept.exists()


def test_one_victim_has_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        full_map.main(["--victims", "1"])
    assert "--victims 1; expected at least 2" in capsys.readouterr().err
