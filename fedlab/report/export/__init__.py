"""The report as other documents: Markdown to read on, CSV to compute with."""

from __future__ import annotations

import json

from fedlab.errors import UnknownName
from fedlab.report.build import AuditReport
from fedlab.report.export.markdown import markdown
from fedlab.report.export.table import TABLES as TABLES
from fedlab.report.export.table import csv_text
from fedlab.report.export.table import known_table as known_table


def exported(report: AuditReport, form: str, table: str = "attacks") -> str:
    """The whole document.

    Args:
        form: `html`, `md`, `json` or `csv`.
        table: which table of the report, for `csv`: one of `TABLES`.

    Raises:
        UnknownName: no such table, or no such form.
    """
    if form == "html":
        return report.html.read_text(encoding="utf-8")
    if form == "json":
        return json.dumps(report.data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if form == "md":
        return markdown(report.data)
    if form == "csv":
        return csv_text(report.data, known_table(table))
    raise UnknownName("format", form, ("html", "md", "json", "csv"))
