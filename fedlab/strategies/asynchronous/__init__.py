"""Servers that wait for nobody: a new model as soon as enough updates are in."""

from fedlab.strategies.asynchronous.buffered import Buffered as Buffered
from fedlab.strategies.asynchronous.buffered import Held as Held
from fedlab.strategies.asynchronous.fedasync import fedasync as fedasync
from fedlab.strategies.asynchronous.fedbuff import fedbuff as fedbuff
from fedlab.strategies.asynchronous.gba import gba as gba
from fedlab.strategies.asynchronous.recruiting import Recruiting as Recruiting
from fedlab.strategies.asynchronous.staleness import Constant as Constant
from fedlab.strategies.asynchronous.staleness import Hinge as Hinge
from fedlab.strategies.asynchronous.staleness import Polynomial as Polynomial
from fedlab.strategies.asynchronous.staleness import Staleness as Staleness
from fedlab.strategies.asynchronous.staleness import Threshold as Threshold
from fedlab.strategies.asynchronous.trips import Trip as Trip
