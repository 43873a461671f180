"""A run as TensorBoard shows it: a folder of events beside those of other runs."""

from __future__ import annotations

from pathlib import Path

from fedlab import files
from fedlab.errors import UsageError
from fedlab.registry.exporting import Handed, needed


def write(run: Handed, out: Path) -> list[str]:
    """Write the folder `out`/<run>. Times on the axes are virtual ones, after the run's start.

    Raises:
        BackendError: TensorBoard is not installed, or the disk refuses.
        UsageError: the folder is there already: TensorBoard would draw both exports as one.
    """
    needed("tensorboard", "tensorboard")
    writers = needed("torch.utils.tensorboard", "tensorboard")
    folder = out / run.entry.path.resolve().name
    if folder.exists():
        raise UsageError(f"{folder} is there already; remove it, or give another --out")
    start = run.started
    with files.refusal(folder):
        folder.mkdir(parents=True)
        writer = writers.SummaryWriter(log_dir=str(folder))
        try:
            for name, points in run.curves.items():
                for point in points:
                    writer.add_scalar(name, point.value, point.round, walltime=start + point.seconds)
            for name, value in run.figures.items():
                writer.add_scalar(name, value, 0, walltime=start)
            for name, text in run.texts.items():
                writer.add_text(name, text, 0, walltime=start)
            # Indented, so that Markdown takes it as it is.
            lines = [f"    {key} = {value}" for key, value in run.settings.items()]
            writer.add_text("settings", "\n".join(lines), 0, walltime=start)
        finally:
            writer.close()
    return [str(folder), f"look at it with: tensorboard --logdir {out}"]
