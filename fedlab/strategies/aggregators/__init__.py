"""Aggregators: how n client updates become one step; one family per file."""

from fedlab.strategies.aggregators.contract import Aggregator as Aggregator
from fedlab.strategies.aggregators.contract import AggregatorState as AggregatorState
from fedlab.strategies.aggregators.contract import FunctionAggregator as FunctionAggregator
from fedlab.strategies.aggregators.contract import Updates as Updates
from fedlab.strategies.aggregators.contract import as_aggregator as as_aggregator
from fedlab.strategies.aggregators.contract import called as called
from fedlab.strategies.aggregators.contract import checked as checked
from fedlab.strategies.aggregators.contract import coordinatewise as coordinatewise
from fedlab.strategies.aggregators.contract import minimum as minimum
from fedlab.strategies.aggregators.contract import needs_root as needs_root
from fedlab.strategies.aggregators.coordinates import median as median
from fedlab.strategies.aggregators.means import mean as mean
from fedlab.strategies.aggregators.means import weighted_mean as weighted_mean
from fedlab.strategies.aggregators.preaggregated import PreAggregated as PreAggregated
from fedlab.strategies.aggregators.preaggregated import Preaggregator as Preaggregator
