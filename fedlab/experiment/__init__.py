"""The composition root: turns a scenario into a run directory with a report. Nothing imports it."""

from fedlab.experiment.launch import resume as resume
from fedlab.experiment.launch import run as run
