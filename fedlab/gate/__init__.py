"""Conditions under which an audit fails: what may be said, and how it is read."""

from fedlab.gate.expression import Gate as Gate
from fedlab.gate.expression import parse as parse
from fedlab.gate.figures import ANY as ANY
from fedlab.gate.figures import KEYS as KEYS
from fedlab.gate.figures import METRICS as METRICS
from fedlab.gate.figures import NAMED as NAMED
from fedlab.gate.figures import OPERATORS as OPERATORS
