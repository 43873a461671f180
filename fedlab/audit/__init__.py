"""What LEAKS: observations, threat models, the contracts of attacks and defenses, scoring."""

from fedlab.audit.attack import Attack as Attack
from fedlab.audit.attack import Reconstruction as Reconstruction
from fedlab.audit.certificate import Certificate as Certificate
from fedlab.audit.defense import Defense as Defense
from fedlab.audit.disclosure import Disclosure as Disclosure
from fedlab.audit.observation import KnownConfig as KnownConfig
from fedlab.audit.observation import Observation as Observation
from fedlab.audit.observation import Part as Part
from fedlab.audit.observation import random_twin as random_twin
from fedlab.audit.threat import ThreatModel as ThreatModel
from fedlab.audit.victim import Proxy as Proxy
from fedlab.audit.victim import Victim as Victim
