"""One observation after the other: what every closed form does around its equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedlab.audit.attack import Reconstruction, Report
from fedlab.audit.certificate import Certificate
from fedlab.audit.observation import Observation
from fedlab.errors import NotApplicable


def each(
    observations: Sequence[Observation],
    solve: Callable[[Observation], Reconstruction],
    *,
    method: str,
    report: Report,
) -> list[Reconstruction]:
    """What `solve` says of each observation, in order; where it raises NotApplicable, `method` is refused.

    Whether observations share a stream of random numbers is up to `solve`.
    """
    answers = []
    for done, observation in enumerate(observations, start=1):
        try:
            answers.append(solve(observation))
        except NotApplicable as error:
            answers.append(Reconstruction.refused(error, Certificate.refused(method, str(error))))
        report(done, len(observations))
    return answers
