"""breaching's optimisation attacker, without the rest of breaching. For the benchmark only.

breaching 0.1.2 (J. Geiping, https://github.com/JonasGeiping/breaching) imports hydra, torchvision,
transformers and data sets before it can attack anything, in versions that no recent torch has. Its attacker
needs torch alone: here its packages are opened without running their `__init__`, and its own configuration
files are read as they are. Nothing of the attacker is changed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

PACKAGES = ("breaching", "breaching.attacks", "breaching.cases", "breaching.cases.models")
ATTACKER = "breaching.attacks.optimization_based_attack"


class Config(dict[str, Any]):
    """A mapping whose keys are attributes, too, as hydra's are; None has no attributes, as there."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    @classmethod
    def of(cls, value: Any) -> Any:
        return cls({k: cls.of(v) for k, v in value.items()}) if isinstance(value, dict) else value


def attacker_class() -> Any:
    """Its OptimizationBasedAttacker.

    Raises:
        ImportError: breaching is not installed, or does not run with this torch.
    """
    if PACKAGES[0] in sys.modules:
        return importlib.import_module(ATTACKER).OptimizationBasedAttacker
    found = importlib.util.find_spec(PACKAGES[0])
    if found is None or found.origin is None:
        raise ImportError("breaching is not installed here")
    root = Path(found.origin).parent
    for name in PACKAGES:
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    return importlib.import_module(ATTACKER).OptimizationBasedAttacker


def configuration(iterations: int) -> Config:
    """Its "invertinggradients" attack as it ships, with another number of iterations."""
    root = Path(sys.modules["breaching"].__path__[0]) / "config" / "attack"
    base = yaml.safe_load((root / "_default_optimization_attack.yaml").read_text())
    own = yaml.safe_load((root / "invertinggradients.yaml").read_text())
    for key, value in own.items():
        merged = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = base[key] | value if merged else value
    base["optim"] |= {"max_iterations": iterations, "callback": iterations}
    config: Config = Config.of(base)
    return config


def reconstruct(
    net: nn.Module, gradients: list[Tensor], label: Tensor, shape: tuple[int, ...], iterations: int
) -> Tensor:
    """One victim's image (1, C, H, W) from its gradients, pixels in [0, 1] and the label (1,) known."""
    setup = {"device": torch.device("cpu"), "dtype": torch.float}
    attacker = attacker_class()(net, nn.CrossEntropyLoss(), configuration(iterations), setup)
    known = Config(modality="vision", shape=shape)
    shared = Config(num_data_points=len(label), labels=label, local_hyperparams=None)
    found, _ = attacker.reconstruct(
        [{"parameters": list(net.parameters()), "buffers": list(net.buffers()), "metadata": known}],
        [{"gradients": list(gradients), "buffers": None, "metadata": shared}],
        {},
    )
    image: Tensor = found["data"]
    return image
