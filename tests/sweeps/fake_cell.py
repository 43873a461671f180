"""A stand-in for the command line of one cell: it leaves what a run leaves, in an instant, with figures that
are a function of its scenario. Started as a program, by path; it knows nothing of fedlab.

The learning rate says how it ends (`ENDS`): "fail" (exit code 1, until a file `mended` is in the directory of
the sweep), "hang" (until it is stopped), "die" (by a signal), "orphan" (leaves a process behind). If there is
a file `limit`, no more cells end than the number in it.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

ENDS = {0.66: "fail", 0.77: "hang", 0.88: "die", 0.99: "orphan"}


def main(words: list[str]) -> int:
    if words[0] == "run":
        scenario, out = Path(words[1]), Path(words[words.index("--out") + 1])
        out.mkdir(parents=True)
    else:
        out = Path(words[1])
        scenario = out.parents[1] / "scenarios" / f"{out.name}.toml"
    data = tomllib.loads(scenario.read_text())
    lock = (out / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    attempts = out / "attempts"
    attempts.write_text((attempts.read_text() if attempts.exists() else "") + words[0] + "\n")
    (out / "manifest.json").write_text(json.dumps({"schema": 1, "status": "running"}))
    ends = ENDS.get(data["clients"]["learning_rate"])
    sweep = out.parents[1]
    if ends == "orphan":
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        (sweep / "orphan").write_text(str(child.pid))
    if ends == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if ends == "hang":
        (sweep / f"hangs-{out.name}").touch()
        while True:
            time.sleep(0.01)
    if ends == "fail" and not (sweep / "mended").exists():
        print("some noise\nerror: the data is not there\nfetch it", file=sys.stderr)
        return 1
    while finished(sweep) >= limit(sweep):
        time.sleep(0.01)
    (out / "report.json").write_text(json.dumps(report(data)))
    (out / "manifest.json").write_text(json.dumps({"schema": 1, "status": "finished"}))
    return 0


def limit(sweep: Path) -> int:
    file = sweep / "limit"
    return int(file.read_text()) if file.exists() else 1000


def finished(sweep: Path) -> int:
    return sum('"finished"' in one.read_text() for one in sweep.glob("cells/*/manifest.json"))


def report(data: dict) -> dict:
    """What the report of a sweep reads of that of a run."""
    batch, seed = data["clients"]["batch_size"], data["seed"]
    psnr = 40.0 / batch + seed / 10
    place = {"strategy": "", "defense": "none", "client_mode": "train"}
    level = "copy" if psnr >= 30 else "above"
    return {
        "schema_version": 1,
        "threshold_db": 20.0,
        "gates": [{"expression": "utility.accuracy < 0.9", "passed": batch < 8}],
        "verdict": {"findings": [{**place, "level": level, "strongest": "linear-layer", "epsilon": None}]},
        "utility": [
            {**place, "accuracy": 0.5 + batch / 100, "accuracy_ci95": [0.4, 0.7], "accuracy_ci95_kind": "9"}
        ],
        "attacks": [
            {
                **place,
                "attack": "linear-layer",
                "threat_label": "",
                "psnr_median": psnr,
                "psnr_mean": psnr,
                "psnr_ci95": [psnr - 1, psnr + 1],
                "fraction_recovered": float(psnr >= 20),
                "fraction_ci95": [0.0, 1.0],
                "recovered": batch * (psnr >= 20),
                "images": batch,
                "control": {"psnr_median": 6.0},
            }
        ],
        "membership": [],
    }


def mind_the_leash() -> None:
    """As `fedlab.cli.leashed` does."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    mind_the_leash()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
    sys.exit(main(sys.argv[1:]))
