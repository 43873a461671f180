"""How a CLIENT learns: configuration, plan of batches, local rules, the stacked loop, the ClientApp."""

from fedlab.clients.config import ClientConfig as ClientConfig
from fedlab.clients.config import Federation as Federation
from fedlab.clients.plan import plan_batches as plan_batches
from fedlab.clients.rules import LocalRule as LocalRule
