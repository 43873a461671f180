"""Contract tests: whoever writes a plugin calls one function in a test of their own.

    from fedlab.testing import check_aggregator

    def test_contract():
        check_aggregator(MyAggregator(f=2))

Each check raises a `ContractError` that says what was asked, what came back and what was expected.
They know nothing of the plugin's purpose: whether it aggregates well is for the author's own tests.
"""

from fedlab.testing.aggregators import check_aggregator as check_aggregator
from fedlab.testing.contract import ContractError as ContractError
from fedlab.testing.local_rules import check_local_rule as check_local_rule
from fedlab.testing.samplers import check_sampler as check_sampler
from fedlab.testing.server_optimizers import check_server_optimizer as check_server_optimizer
from fedlab.testing.strategies import check_strategy as check_strategy
