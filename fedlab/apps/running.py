"""An app's run on our Grid, seen from the server's side and recorded on the clients'.

The Grid is `TappedGrid(GuardedGrid(SimulationGrid))`. The guard turns away what is no number, and nothing
else: whether other arrays may come back than were sent, the app's own strategy says. Clients are recorded in
the rounds that are observed and nowhere else.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from fedlab import seeds
from fedlab.apps.bounds import Printed, bounded, exit_code, own_traceback, words
from fedlab.apps.contract import Ran, Recording
from fedlab.apps.desk import Desk
from fedlab.apps.flower import MASKED, Books, declare, masks, watched
from fedlab.apps.folder import AppFolder, Value
from fedlab.apps.grids import FrontGrid, RoundsGrid, is_training
from fedlab.apps.loading import Apps
from fedlab.apps.needs import advice
from fedlab.apps.recorder import LIMIT, OnStep, Recorder
from fedlab.errors import AppFailed, BackendError, FedlabError, UsageError
from fedlab.progress import Progress, Quiet
from fedlab.runtime import GuardedGrid, SimulationGrid, TappedGrid
from fedlab.runtime._flower import RUN_ID, SUPERLINK_NODE_ID, error_reply
from fedlab.runtime.guard.declared import Kind
from fedlab.runtime.memory import out_of_memory

JOB = "run the app"
FINITE: frozenset[Kind] = frozenset({"not-finite"})
"""What the guard minds."""
Call = Callable[[Message, Context], Message]


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
    on_step: OnStep | None = None,
) -> Ran:
    """Run the app to its end.

    Args:
        run_config: changes to the app's own (`fedlab.apps.folder.overrides` parses them).
        supernodes: clients that there are, partitions 0 to supernodes - 1.
        rounds: instead of the run config's own number of rounds.
        observe: rounds whose replies and batches are kept, counted from 1.
        seed: of the global generators of server and clients, which stay as they were.
        mods: Flower mods around the app's own, the outermost first; they see what the app sends.
        on_step: told before each step of an optimizer in a client, in all rounds; may change its gradients.

    Raises:
        UsageError: an unknown key of the run config, no key that counts rounds, a round that does not exist.
        AppFailed: the app raised or exited, or none of its clients ever answered; has the app's traceback.
    """
    if supernodes < 1:
        raise UsageError(f"supernodes = {supernodes}; expected how many clients there are, at least 1")
    config, rounds_told = planned(folder, run_config or {}, rounds, observe)
    told, printed, books = progress or Quiet(), Printed(), Books()
    told.start(JOB, max(observe, default=1) if rounds_told is None else rounds_told)
    clients = _Clients(apps.client, folder, config, mods, frozenset(observe), on_step)
    counted = RoundsGrid(
        SimulationGrid(clients, supernodes, seed=seed), began=lambda number: told.advance(JOB, number - 1)
    )
    clients.round_of = counted.round_of
    desk = Desk(counted, frozenset(observe))
    guarded = GuardedGrid(counted, max_norm=math.inf, weight=None, only=FINITE)
    grid = FrontGrid(TappedGrid(guarded, desk.see), supernodes)
    context = Context(RUN_ID, SUPERLINK_NODE_ID, {}, RecordDict(), dict(config))
    with bounded(printed, folder.path, seeds.derive(seed, "server")), watched(books, supernodes):
        try:
            apps.server(grid, context)
        except FedlabError:
            raise
        except (Exception, SystemExit) as error:
            if out_of_memory(error):
                raise
            if not (isinstance(error, SystemExit) and exit_code(error) == 0 and desk.replies):
                raise _failed(error, folder, desk) from None
        finally:
            grid.close()
    try:
        desk.check()
    except AppFailed as failed:
        raise _advised(str(failed), failed.traceback, folder) from None
    _observable(observe, counted.round, "then it ended")
    told.finish(JOB, f"{counted.round} round{'s' * (counted.round != 1)}")
    if desk.unevaluated:
        told.message(desk.unevaluated)
    sights = sorted(desk.sights, key=lambda one: (one.round, one.client))
    places = {(one.round, one.client) for one in sights}
    return Ran(
        sights=sights,
        recordings={place: one for place, one in sorted(clients.recordings.items()) if place in places},
        metrics=books.metrics(),
        configuration=config,
        rounds=counted.round,
        replies=desk.replies,
        failed=desk.failed,
        failure=desk.failure,
        output=(*apps.output, *printed.lines)[-200:],
        unevaluated=desk.unevaluated,
        masked=desk.masked,
    )


def planned(
    folder: AppFolder, changes: Mapping[str, Value], rounds: int | None, observe: Collection[int]
) -> tuple[dict[str, Value], int | None]:
    """The run config with these changes, and for how many rounds the app trains; None if it does not say.

    Raises:
        UsageError: as `run`, as far as it can be told before the app runs.
    """
    config = _configured(folder, changes, rounds)
    key = folder.rounds_key()
    count = None if key is None else int(config[key])
    _observable(observe, math.inf if count is None else count, f"its run config says {key} = {count}")
    return config, count


def _configured(folder: AppFolder, changes: Mapping[str, Value], rounds: int | None) -> dict[str, Value]:
    if rounds is None:
        return folder.configured(changes)
    if rounds < 1:
        raise UsageError(f"rounds = {rounds}; expected at least 1")
    key = folder.rounds_key()
    if key is None:
        known = ", ".join(sorted(folder.config)) or "none"
        raise UsageError(
            f"rounds = {rounds}, but no key of the app's run config counts rounds (its keys: {known});"
            " leave rounds out, or change the key that does with --run-config"
        )
    return folder.configured({**changes, key: rounds})


def _observable(observe: Collection[int], rounds: float, why: str) -> None:
    wrong = sorted(number for number in observe if not 1 <= number <= rounds)
    if wrong and wrong[0] < 1:
        raise UsageError(f"observe round {wrong[0]}; rounds are counted from 1")
    if wrong:
        raise UsageError(f"observe round {wrong[0]}; the app trains for {rounds} rounds ({why})")


class _Clients(ClientApp):
    """The app's clients, told the run config as a SuperNode tells them, and recorded where observed."""

    def __init__(
        self,
        app: ClientApp,
        folder: AppFolder,
        config: Mapping[str, Value],
        mods: Sequence[Mod],
        observe: frozenset[int],
        on_step: OnStep | None,
    ) -> None:
        super().__init__()
        self.round_of: Callable[[Message], int] = lambda message: 0
        self.recordings: dict[tuple[int, int], Recording] = {}
        self._app, self._folder, self._config, self._observe = app, folder.path, config, observe
        self._left, self._on_step = LIMIT, on_step
        self._behind: Call = self._recorded
        for mod in reversed(mods):
            self._behind = functools.partial(_through, mod, self._behind)

    def __call__(self, message: Message, context: Context) -> Message:
        own = Context(
            context.run_id, context.node_id, dict(context.node_config), context.state, dict(self._config)
        )
        try:
            with torch.inference_mode(False), torch.enable_grad():  # the server's own modes are not theirs
                answer = self._behind(message, own)
        except (Exception, SystemExit) as error:
            if isinstance(error, BackendError) or out_of_memory(error):
                raise
            return error_reply(message, own_traceback(error, self._folder))
        context.state = own.state
        if not isinstance(answer, Message):
            return error_reply(
                message, f"the ClientApp returned a {type(answer).__name__}; expected a Message"
            )
        if answer.has_content():
            declare(answer.content)
        return answer

    def _recorded(self, message: Message, context: Context) -> Message:
        number = self.round_of(message) if is_training(message) else 0
        if number not in self._observe:
            if self._on_step is None or not number:
                return self._app(message, context)
            with Recorder(LIMIT, self._on_step):  # of a round that nobody looks at nothing is kept
                return self._app(message, context)
        if masks(message) not in ("", MASKED):
            return self._app(message, context)
        with Recorder(self._left, self._on_step) as recorder:
            answer = self._app(message, context)
        self._left -= recorder.kept
        self.recordings[number, int(context.node_config["partition-id"])] = recorder.recording()
        return answer


def _through(mod: Mod, call: Call, message: Message, context: Context) -> Message:
    return mod(message, context, call)


def _failed(error: BaseException, folder: AppFolder, desk: Desk) -> AppFailed:
    """What to tell of a ServerApp that raised or exited; where no client had answered, of the clients."""
    when = f"in round {desk.round}" if desk.round else "before the first round"
    if isinstance(error, SystemExit):
        told = f"the ServerApp ended the process with code {exit_code(error)} {when}"
    else:
        told = f"the ServerApp failed {when}: {words(error)}"
    if not desk.failed:
        return _advised(told, own_traceback(error, folder.path), folder)
    first, trace = desk.first_failure
    if desk.failed < desk.replies:
        told += f". {desk.failed} of {desk.replies} training replies had failed; the first: {first}"
        return _advised(told, own_traceback(error, folder.path), folder)
    told = f"all {desk.replies} training replies failed; the first: {first}. Then {told}"
    return _advised(told, trace, folder)


def _advised(told: str, trace: str, folder: AppFolder) -> AppFailed:
    """With what to do about it, where that is known."""
    todo = advice(f"{told}\n{trace}", folder.dependencies)
    return AppFailed(f"{told}.\n{todo}" if todo else told, trace)
