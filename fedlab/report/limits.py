"""What the evidence does not show: limits of this run, threat models tested and not tested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedlab.audit.scoring import binomial_interval
from fedlab.report.app import NAME as APP
from fedlab.report.course import told
from fedlab.report.knowledge import KNOWLEDGE, UNAWARE, granted
from fedlab.report.reading import LEVELS, UNTRIED, assumed, listed, mode_word, namer, percent, plural, several
from fedlab.report.rundir import Run, malformed

Row = dict[str, Any]

MEMBERSHIP = "Membership inference: was this person's record used?"
POISONING = "Poisoning and backdoors: attacks on what is learned, not on what leaks."

MALICIOUS = "A malicious server that sends altered weights or an altered network to make clients leak more."
PROXY = "An attacker with similar data of its own."
SUMS = "Secure aggregation: each client's own update was visible to the server."

NEVER_TESTED = (
    SUMS,
    MALICIOUS,
    "Clients that collude with the server or with each other, and clients that attack other clients.",
    "An attacker that combines many rounds of one client.",
    PROXY,
    "An attacker with a generative model of such images.",
    MEMBERSHIP,
    "Inference of attributes of people, or of properties of a client's records as a whole.",
    "Outsiders who see only the trained model, or can only query it.",
    POISONING,
    "Side channels: how long a client takes, how much it sends and when, what its memory or caches show.",
    "Floating point: what rounding lets through of what noise is to cover.",
    "What leaves the system by another way than updates: logs, metrics, published results, people.",
)


def limits(run: Run, attacks: list[Row], utility: list[Row], guarantees: list[Row]) -> list[str]:
    """Sentences to be read with the verdict, the most important first."""
    found = []
    status = str(run.manifest.get("status", "unknown"))
    if status != "finished":
        found.append(f"This run is marked “{status}”: parts of it are missing, and so are their findings.")
    who = namer(run.cells)
    found += _failed(attacks, who)
    found += _stronger(attacks, who)
    attacks = assumed(attacks)
    dataset = run.manifest.get("dataset") or {}
    if dataset.get("synthetic"):
        found.append("The data is synthetic: this report supports no claim about real people's privacy.")
    images = max((row["images"] for row in attacks), default=0)
    names = list(dict.fromkeys(row["attack"] for row in (*attacks, *run.memberships)))
    if images:
        found.append(
            f"Each row rests on at most {plural(images, 'attacked image')}. If 0 of {images} are recovered, a"
            f" true rate of up to {percent(binomial_interval(0, images)[1])} cannot be excluded (95 %, exact"
            " binomial; images of one batch are counted as independent)."
        )
    found += _reach(run, names)
    seeds = {cell["seed"] for cell in run.cells}
    if len(seeds) == 1:
        found.append("One seed: intervals cover the choice of victims, not a different training run.")
    missing = [
        row for row in attacks if row["control"]["psnr_median"] is None and row["psnr_median"] is not None
    ]
    if missing:
        pairs = ", ".join(f"{row['attack']} on {who(row)}" for row in missing)
        found.append(f"No null control was scored for {pairs}; these scores lack a point of comparison.")
    for row in attacks:
        base = row["control"]["psnr_median"]
        if base is not None and base >= run.threshold:
            found.append(
                f"The control of {row['attack']} on {who(row)} itself reaches the threshold: for these"
                " images the threshold separates nothing, compare with the control instead."
            )
    found += _victims(run)
    found += _populations(run, guarantees)
    found += told(utility, who)
    noises = {str(row["noise"]) for row in guarantees if row["noise"] and row["epsilon"] is not None}
    found += [f"The noise behind ε is: “{noise}”." for noise in sorted(noises)]
    found.append(
        "PSNR and SSIM compare pixels; a picture can identify a person at a low score. This report is an"
        " input to a data protection impact assessment, not a substitute for one."
    )
    return found


def _reach(run: Run, attacks: list[str]) -> list[str]:
    """Which attacks were tried, on which rounds."""
    if not attacks:
        return ["No attack was tried: this run says nothing about what leaks."]
    tried = (
        f"Attacks tried: {', '.join(attacks)}. One that recovered nothing shows that it did not, and not"
        " that no attack could."
    )
    rules = [(one.get("local_rule") or {}).get("name", "fedavg") for one in run.strategies]
    if others := [rule for rule in dict.fromkeys(rules) if rule != "fedavg"]:
        tried += (
            " They took updates for plain SGD's, and used nothing that the local"
            f" {'rule' if len(others) == 1 else 'rules'} {listed(others)}"
            f" {'sends' if len(others) == 1 else 'send'} beside the update, or between rounds."
        )
    rounds = (run.scenario.get("audit") or {}).get("rounds")
    if not rounds:
        return [tried, "The observed rounds are not recorded in the scenario."]
    numbers = list(map(str, rounds)) if isinstance(rounds, list) else [str(rounds)]
    return [
        tried,
        f"Only updates of round{'s' if len(numbers) > 1 else ''} {listed(numbers)} were attacked; leakage"
        " changes as training goes on.",
    ]


def threat_models(run: Run, attacks: list[Row]) -> dict[str, list[str]]:
    """{tested, not_tested}, in sentences."""
    tested: dict[tuple[str, str], list[str]] = {}
    for row in attacks:
        if row["level"] in UNTRIED or row["threat_label"] == UNAWARE:
            continue  # who knows less than the run's own attacker has a section of its own
        tested.setdefault((_describe(row["threat"]), row["client_mode"]), []).append(row["attack"])
    asked = [one for one in run.memberships if any(who["scores"] for who in one.get("targets") or [])]
    for one in asked:
        mode = str(one.get("client_mode") or "")
        tested.setdefault((_describe(one.get("threat") or {}), mode), []).append(one["attack"])
    sides: dict[tuple[str, str], list[str]] = {}
    for (text, mode), names in tested.items():
        sides.setdefault((text, ", ".join(dict.fromkeys(names))), []).append(mode_word(mode))
    sentences = [
        f"{text} Clients in {listed(words)}. Attacks: {names}." for (text, names), words in sides.items()
    ]
    modes = {cell["client_mode"] for cell in run.cells}
    missing = [
        f"Clients that run their network in {mode_word(mode)}."
        for mode in ("train", "eval")
        if mode not in modes
    ]
    if attacks and not any(row["threat"].get("labels") for row in attacks):
        missing.append(
            "An attacker that knows the labels beforehand, which is the upper bound for several attacks."
        )
    poisoned = any(one.get("adversaries") for one in run.metrics.values())
    covered = {POISONING} if poisoned else set()
    covered |= {MEMBERSHIP} if asked else set()
    for row in attacks:
        covered |= _covered(row["threat"], row["server"]) if row["level"] not in UNTRIED else set()
    victims = [one for truth in run.truth.values() for one in truth.get("victims") or []]
    covered |= {SUMS} if any("clients" in one for one in victims) else set()
    never = [text for text in NEVER_TESTED if text not in covered]
    return {"tested": sentences, "not_tested": [*missing, *never]}


def _covered(threat: Row, server: str) -> set[str]:
    """What an attack tests that is not tested as a rule."""
    found = {PROXY} if threat.get("proxy_data") else set()
    found |= {SUMS} if threat.get("sums") else set()
    return found | ({MALICIOUS} if server == "malicious" == threat.get("server") else set())


def _describe(threat: Row) -> str:
    if not threat:
        return "A curious server; what it knows was not recorded."
    asked = [piece for piece in KNOWLEDGE if piece in threat]  # older runs knew of fewer
    knows = [KNOWLEDGE[piece] for piece in asked if granted(threat, piece)]
    lacks = [KNOWLEDGE[piece] for piece in asked if not granted(threat, piece)]
    seen = (
        "the sum of each round's updates, and no single one" if threat.get("sums") else "each client's update"
    )
    text = (
        "Malicious server: may send clients a network or weights of its own making, keeps and studies"
        if threat.get("server") == "malicious"
        else "Honest-but-curious server: follows the protocol, keeps and studies"
    )
    text += (
        f" {seen}. It holds the network and its weights before and after, and"
        f" knows {listed(knows) if knows else 'nothing else'}."
    )
    return text + (f" It does not know {listed(lacks)}." if lacks else "")


def _stronger(attacks: list[Row], who: Callable[[Row], str]) -> list[str]:
    """Where another threat than that of the verdict leads to more, for the verdict does not say it."""
    base = {(row["attack"], who(row)): row for row in assumed(attacks)}
    more = []
    for row in attacks:
        first = base.get((row["attack"], who(row)))
        aware = row["threat_label"] not in ("", UNAWARE)  # who knows less is no stronger attacker
        if aware and first and LEVELS[row["level"]].rank > LEVELS[first["level"]].rank > 0:
            more.append(f"{row['attack']} on {who(row)} under {row['threat_label']} ({row['reading']})")
    if not more:
        return []
    return [
        "The verdict is about one attacker. One who is assumed to know or do more got further:"
        f" {', '.join(more)}; see “What knowledge is worth”."
    ]


def _failed(attacks: list[Row], who: Callable[[Row], str]) -> list[str]:
    """That attacks broke down, how many and where: their silence must not pass for protection."""
    broken = [row for row in attacks if row["failed"]]
    if not broken:
        return []
    where = ", ".join(
        f"{row['attack']} on {who(row)}"
        + (f" under the threat {row['threat_label']}" if row["threat_label"] else "")
        + (f" ({row['failed']} of {row['models']} trained models)" if row["failed"] < row["models"] else "")
        for row in broken
    )
    each = "strategy, defense" if several(attacks, "strategy") else "defense"
    return [
        f"{plural(len(broken), 'attack')} of {len(attacks)} (counted per {each} and client mode) failed, by"
        f" a crash or a broken contract: {where}. That says nothing about what leaks there: mend the attack"
        " and run again."
    ]


def _populations(run: Run, guarantees: list[Row]) -> list[str]:
    """What cannot be said of every client of a population that is never listed."""
    found = []
    clients = run.scenario.get("clients") or {}
    shared = (clients.get("partition") or {}).get("name") == "drawn"
    if shared and not (run.manifest.get("dataset") or {}).get("generated"):
        epsilon = any(row["epsilon"] is not None for row in guarantees)
        found.append(
            "Clients drew their records from one pool, so that a record may be several clients'."
            + (" ε is about one client's use of it, not about all of them together." if epsilon else "")
        )
    for cell, metrics in run.metrics.items():
        with malformed("metrics.json"):
            if metrics.get("per_client_of", "all") != "all":
                found.append(
                    f"{cell}: accuracy per client is that of {len(metrics['per_client'])} clients who took"
                    f" part, of {int(metrics['population']):,}."
                )
    return found


def _victims(run: Run) -> list[str]:
    """Where victims were drawn from, if not every observation was open to the draw."""
    found = []
    for cell, truth in run.truth.items():
        with malformed(f"truth/{cell}.json"):
            chosen = len(truth.get("victims") or [])
            if any(truth.get(key) is None for key in ("observed", "empty", "eligible")):
                continue
            observed, empty, eligible = (int(truth[key]) for key in ("observed", "empty", "eligible"))
            if observed == 0 and run.metrics.get(cell, {}).get("tasks"):
                continue  # nothing is observed of several tasks, and nothing is said of what leaks
            if chosen == 0 and run.file(APP).is_file():
                found.append(
                    f"{cell}: nothing was attacked, for the reason that stands above the facts on the app."
                    " That says nothing about what leaks."
                )
                continue
            if observed == 0:
                found.append(
                    f"{cell}: nothing was attacked, for no valid update of the observed rounds reached the"
                    " server. That says nothing about what leaks: mend what kept them away, or observe"
                    " other rounds (audit.rounds)."
                )
            elif chosen == 0:
                found.append(
                    f"{cell}: nothing was attacked, for none of {observed} observed updates was eligible"
                    f" ({empty} came from empty batches). That says nothing about what leaks: observe more"
                    " rounds."
                )
            elif eligible < observed:
                found.append(
                    f"{cell}: {chosen} victims, drawn from {eligible} eligible of {observed}"
                    f" observed updates. Empty batches ({empty}) and batches of another than the nominal"
                    " size were not attacked: what remains is the case that suits the attacker."
                )
    return found
