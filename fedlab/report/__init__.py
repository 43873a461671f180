"""What people READ: report.json for machines, one self-contained report.html for people.

Both are built from the run directory alone, so a report can be rebuilt at any time without training, and
the same run gives the same bytes. Text from the run directory is hostile until shown otherwise: it is
cleaned when read (`rundir`), escaped when printed (`page`), and never leads outside the directory.
"""

from fedlab.report.build import AuditReport as AuditReport
from fedlab.report.build import build as build
