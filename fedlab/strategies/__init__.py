"""How the SERVER learns: aggregators, server optimizers, schedules, and their composition."""

from fedlab.strategies.aggregators import Aggregator as Aggregator
from fedlab.strategies.aggregators import Updates as Updates
from fedlab.strategies.aggregators import as_aggregator as as_aggregator
from fedlab.strategies.aggregators import coordinatewise as coordinatewise
from fedlab.strategies.composition import Composition as Composition
from fedlab.strategies.composition import fedavg as fedavg
from fedlab.strategies.learner import Arrival as Arrival
from fedlab.strategies.learner import Learner as Learner
from fedlab.strategies.sampling import Population as Population
from fedlab.strategies.sampling import Sampler as Sampler
from fedlab.strategies.schedules import Stragglers as Stragglers
from fedlab.strategies.schedules import Synchronous as Synchronous
from fedlab.strategies.server_optimizers import SGD as SGD
from fedlab.strategies.server_optimizers import Adagrad as Adagrad
from fedlab.strategies.server_optimizers import Adam as Adam
from fedlab.strategies.server_optimizers import Momentum as Momentum
from fedlab.strategies.server_optimizers import ServerOptimizer as ServerOptimizer
from fedlab.strategies.server_optimizers import Yogi as Yogi
