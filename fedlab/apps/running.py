"""An app's run on our Grid, seen from the server's side and recorded on the clients'."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from flwr.clientapp.typing import Mod

from fedlab.apps.contract import Ran
from fedlab.apps.folder import AppFolder, Value
from fedlab.apps.loading import Apps
from fedlab.progress import Progress


def run(
    apps: Apps,
    folder: AppFolder,
    *,
    run_config: Mapping[str, Value] | None = None,
    supernodes: int = 10,
    rounds: int | None = None,
    observe: Collection[int] = (1,),
    seed: int = 0,
    progress: Progress | None = None,
    mods: Sequence[Mod] = (),
) -> Ran:
    """Run the app to its end.

    Args:
        run_config: changes to the app's own (`fedlab.apps.folder.overrides` parses them).
        supernodes: clients that there are, partitions 0 to supernodes - 1.
        rounds: instead of the run config's own number of rounds.
        observe: rounds whose replies and batches are kept, counted from 1.
        seed: of the global generators of server and clients, which stay as they were.
        mods: Flower mods around the app's own, the outermost first; they see what the app sends.

    Raises:
        UsageError: an unknown key of the run config, no key that counts rounds, a round that does not exist.
        AppFailed: the app raised or exited, or none of its clients ever answered; has the app's traceback.
    """
    raise NotImplementedError
