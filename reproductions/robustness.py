"""Aggregators against attackers: a table of accuracy and success, and up to how many attackers each holds."""

from __future__ import annotations

from reproductions.study import Bar, Figures, Found, Outcome, Study, Variant, paired

CLIENTS, LINE = 20, 0.85
FRACTIONS = (0.1, 0.2, 0.3, 0.4)
ATTACKS = {
    "sign flip x10": 'name = "sign-flip", scale = 10.0',
    "IPM": 'name = "ipm", epsilon = 10.0',
    "ALIE": 'name = "alie"',
    "label flip": 'name = "label-flip"',
    "backdoor": 'name = "backdoor", target = 0',
}
PLAIN = {"mean": "mean", "median": "median", "geometric median": "geometric-median"}
BOUNDED = {"trimmed mean": "trimmed-mean", "Krum": "krum"}
ROBUST = ("trimmed mean", "median", "geometric median")
UNEQUAL = ("clients.partition=dirichlet", "clients.partition.alpha=0.3")


def combining(name: str, fraction: float) -> tuple[str, ...]:
    """The changes that choose an aggregator, told how many attackers there are; "+ NNM" mixes first."""
    attackers, (base, _, mixed) = round(fraction * CLIENTS), name.partition(" + ")
    plugin = PLAIN.get(base) or BOUNDED[base]
    told = (f"strategy.aggregator.f={attackers}",) if base in BOUNDED else ()
    before = ("strategy.pre_aggregation=nnm", f"strategy.pre_aggregation.f={attackers}") if mixed else ()
    return (f"strategy.aggregator={plugin}", *told, *before)


def attacking(attack: str, fraction: float) -> str:
    return (
        f"adversaries=[{{ {ATTACKS[attack]}, fraction = {fraction} }}]"
        if attack in ATTACKS
        else "adversaries=[]"
    )


def _variants() -> dict[str, Variant]:
    found = {}
    for attack in ("none", *ATTACKS):
        for name in (*PLAIN, *BOUNDED):
            found[f"IID, {attack}: {name}"] = Variant((*combining(name, 0.2), attacking(attack, 0.2)))
    for attack in ("none", "sign flip x10", "ALIE"):
        for name in ("median", "trimmed mean", "Krum"):
            for mixed in (name, f"{name} + NNM"):
                changes = (*combining(mixed, 0.2), attacking(attack, 0.2), *UNEQUAL)
                found[f"Dirichlet(0.3), {attack}: {mixed}"] = Variant(changes)
    for fraction in FRACTIONS:
        for name in ("mean", *ROBUST):
            if fraction != 0.2:  # in the first table
                changes = (*combining(name, fraction), attacking("sign flip x10", fraction))
                found[_many(name, fraction)] = Variant(changes)
    return found


def _many(name: str, fraction: float) -> str:
    """The variant with so many attackers that flip signs."""
    if fraction == 0.2:
        return f"IID, sign flip x10: {name}"
    return f"IID, sign flip x10 by {round(fraction * CLIENTS)} of {CLIENTS}: {name}"


def measure(outcome: Outcome) -> Figures:
    """Clean accuracy (0.1 is chance), and how often the attackers' wish came true, if they have one."""
    rates = [one["success"] for one in outcome.metrics["adversaries"]]
    return {"accuracy": outcome.metrics["accuracy"], "success": rates[0] if rates else None}


def accuracy(figures: Figures) -> float:
    return float(figures["accuracy"])


def success(figures: Figures) -> float:
    return float("nan") if figures["success"] is None else float(figures["success"])


def breakdown(found: Found, name: str) -> tuple[float, ...]:
    """Per seed: the largest fraction of attackers up to which accuracy stays at `LINE`; 0 if none."""
    points = []
    for seed in range(len(next(iter(found.values())))):
        held = 0.0
        for fraction in FRACTIONS:
            if accuracy(found[_many(name, fraction)][seed]) < LINE:
                break
            held = fraction
        points.append(held)
    return tuple(points)


def bars(found: Found) -> list[Bar]:
    def value(variant: str) -> tuple[float, ...]:
        return tuple(map(accuracy, found[variant]))

    collapses = [
        Bar(f"IID, {attack}: accuracy of the mean", value(f"IID, {attack}: mean"), "collapses", at_most=0.5)
        for attack in ("sign flip x10", "IPM")
    ]
    keeps = [
        Bar(f"IID, {attack}: accuracy of {name}", value(f"IID, {attack}: {name}"), "learns", at_least=LINE)
        for attack in ("sign flip x10", "IPM")
        for name in ROBUST
    ]
    shown = [
        Bar(
            f"IID: accuracy that ALIE costs {name}",
            paired(found, f"IID, none: {name}", f"IID, ALIE: {name}", accuracy),
            "hurts",
        )
        for name in (*ROBUST, "Krum")
    ]
    mixing = [
        Bar(
            f"Dirichlet(0.3), ALIE: accuracy of {name} + NNM over {name}",
            paired(found, f"Dirichlet(0.3), ALIE: {name} + NNM", f"Dirichlet(0.3), ALIE: {name}", accuracy),
            "better",
            at_least=0.0,
        )
        for name in ("median", "trimmed mean", "Krum")
    ]
    points = [
        Bar(
            f"Sign flip x10: largest fraction of attackers with accuracy {LINE} for {name}",
            breakdown(found, name),
            "below 0.5",
            **({"at_most": 0.0} if name == "mean" else {"at_least": 0.2}),
        )
        for name in ("mean", *ROBUST)
    ]
    return [*collapses, *keeps, *shown, *mixing, *points]


STUDY = Study(
    name="robustness",
    title="Robust aggregation: 4 of 20 attackers on digits",
    paper="Yin et al., ICML 2018; Blanchard et al., NeurIPS 2017; Pillutla et al., IEEE TSP 2022; Baruch et"
    " al., NeurIPS 2019; Allouah et al., AISTATS 2023: orderings, on larger data",
    work="digits, MLP 64-32-10, 20 clients, 5 local steps of batches of 16 with momentum 0.9, learning rate"
    " 0.05, 60 rounds, all clients in each; f is the true number of attackers. Success: of label flips"
    " and backdoors, on test images. Non-IID: Dirichlet(0.3)",
    variants=_variants(),
    seeds=(0, 1, 2),
    measure=measure,
    columns={"accuracy": accuracy, "attack success": success},
    bars=bars,
    notes=(
        "Momentum begins anew in each round, unlike the workers' momentum of Karimireddy et al. (ICML"
        " 2021), which a client carries on.",
        "IPM with ε = 10: below ε = 4 the sum of 16 honest and 4 reversed updates still points the right"
        " way.",
    ),
)
