"""Local rules: what clients do with gradients, one algorithm per file."""

from fedlab.clients.rules.contract import Aux as Aux
from fedlab.clients.rules.contract import Batch as Batch
from fedlab.clients.rules.contract import Carry as Carry
from fedlab.clients.rules.contract import GradFn as GradFn
from fedlab.clients.rules.contract import InputGradFn as InputGradFn
from fedlab.clients.rules.contract import LocalRule as LocalRule
from fedlab.clients.rules.contract import NetworkFactory as NetworkFactory
from fedlab.clients.rules.contract import Sent as Sent
from fedlab.clients.rules.contract import Work as Work
from fedlab.clients.rules.contract import WrappedRule as WrappedRule
from fedlab.clients.rules.contract import slot as slot
from fedlab.clients.rules.contract import slotted as slotted
from fedlab.clients.rules.contract import zeros as zeros
from fedlab.clients.rules.server import Combined as Combined
from fedlab.clients.rules.server import Facts as Facts
from fedlab.clients.rules.server import ServerSide as ServerSide
from fedlab.clients.rules.server import ServerState as ServerState
from fedlab.clients.rules.server import average as average
