"""Clients that do not do what they are told: poisoned data and poisoned updates."""

from fedlab.adversaries.contract import Adversary as Adversary
from fedlab.adversaries.contract import Scene as Scene
from fedlab.adversaries.grid import AdversarialGrid as AdversarialGrid
from fedlab.adversaries.groups import Group as Group
from fedlab.adversaries.groups import Recruits as Recruits
from fedlab.adversaries.groups import groups as groups
from fedlab.adversaries.poisoning import poison as poison
