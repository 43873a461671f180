"""WHAT to run: a strict TOML scenario, its overrides, its JSON Schema, and all its mistakes at once."""

from fedlab.scenario.loading import load as load
from fedlab.scenario.loading import resolved_toml as resolved_toml
from fedlab.scenario.reference import json_schema as json_schema
from fedlab.scenario.schema import Labelled as Labelled
from fedlab.scenario.schema import Scenario as Scenario
from fedlab.scenario.sections import Plugin as Plugin
from fedlab.scenario.source import shipped as shipped
