"""What is LEARNED: data sets, their partitions among clients, models, loss."""

from fedlab.tasks.functional import FunctionalModel as FunctionalModel
from fedlab.tasks.functional import State as State
from fedlab.tasks.functional import initialise as initialise
from fedlab.tasks.layers import BatchNorm as BatchNorm
from fedlab.tasks.layers import Dropout as Dropout
from fedlab.tasks.population import LazyOwners as LazyOwners
from fedlab.tasks.task import Dataset as Dataset
from fedlab.tasks.task import Records as Records
from fedlab.tasks.task import Task as Task
from fedlab.tasks.task import cross_entropy as cross_entropy
