"""What an attack claims of records that nobody knows, as it stands in a run directory: no score is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fedlab.apps.tap.replayed import replayed
from fedlab.audit import Observation, Reconstruction
from fedlab.experiment.attacking import AttackAnswer, AttackJob
from fedlab.foreign import clean
from fedlab.report.deployment import KIND
from fedlab.tasks import State


def claims(job: AttackJob, answer: AttackAnswer, plugin: str) -> dict[str, Any]:
    """What attacks/<cell>/<label>.json holds."""
    return {
        "kind": KIND,
        "attack": job.label,
        "plugin": plugin,
        "paper": job.attack.paper,
        "needs": sorted(job.attack.needs),
        "server": job.attack.server,
        "threat": asdict(job.threat),
        "threat_label": "",
        "error": answer.error,
        "failed": answer.failed,
        "victims": _claimed(answer.victims, job),
        "control": _claimed(answer.control, job),
    }


def _claimed(answers: Sequence[Reconstruction], job: AttackJob) -> list[dict[str, Any]]:
    return [
        clean(
            {
                "round": place.round,
                "client": place.client,
                "images": 0 if one.images is None else len(one.images),
                "labels": None if one.labels is None else one.labels.tolist(),
                "residual": one.residual,
                "replayed": replayed(one, place, job.victim),
                "refusal": one.refusal,
                "certificates": [found.to_dict() for found in one.certificates],
                "details": dict(one.details),
            }
        )
        for one, place in zip(answers, job.observations, strict=bool(answers))
    ]


def images_of(answer: AttackAnswer, seen: Sequence[Observation]) -> State:
    """Claimed pixels by "victim/<round>-<client>" and "control/<round>-<client>"."""
    return {
        f"{kind}/{place.round}-{place.client}": one.images.clone()
        for kind, answers in (("victim", answer.victims), ("control", answer.control))
        for one, place in zip(answers, seen, strict=bool(answers))
        if one.images is not None
    }
