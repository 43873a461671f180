"""What an attacker is after: filled by the experiment, read by `fedlab.audit.scoring`, and by nobody else.

No argument of an attack has this type, and import-linter keeps the plugins from naming it: choosing among
candidates by looking at the private data is then a type error, not a matter of discipline.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedlab.errors import UsageError


@dataclass(frozen=True, eq=False)
class Truth:
    """The records behind one observation.

    Attributes:
        round, client: which observation.
        record_ids: ids of the B records in the client's batch, in the data set's numbering.
        images: (B, C, H, W) in [0, 1], if they are pixels.
        labels: (B,) int64.
        pixels: whether they are; features of another kind cannot be scored.

    Raises:
        UsageError: the three disagree about B, or a pixel lies outside [0, 1].
    """

    round: int
    client: int
    record_ids: tuple[int, ...]
    images: Tensor
    labels: Tensor
    pixels: bool = True

    def __post_init__(self) -> None:
        sizes = {len(self.record_ids), len(self.images), len(self.labels)}
        if self.images.ndim != 4 or len(sizes) != 1:
            raise UsageError(
                f"truth of round {self.round}, client {self.client}: {len(self.record_ids)} record ids,"
                f" images {tuple(self.images.shape)}, labels {tuple(self.labels.shape)};"
                " expected B ids, (B, C, H, W) and (B,)"
            )
        # Written so that NaN fails too.
        inside = bool(((self.images >= 0.0) & (self.images <= 1.0)).all())
        if self.pixels and not inside:
            raise UsageError(
                f"truth of round {self.round}, client {self.client}: pixels outside [0, 1]; PSNR and SSIM"
                " are defined on that range, so scale the data set"
            )

    def __len__(self) -> int:
        return len(self.record_ids)
