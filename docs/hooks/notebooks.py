"""Notebooks without Jupyter: run one and keep its outputs, and show it as a page of the documentation.

    python docs/hooks/notebooks.py docs/notebooks/first-audit.ipynb

runs the cells in a folder of their own and writes what they print and display into the file (nbformat 4.5).
As a hook of mkdocs it makes every notebook a page, from the outputs that it holds: building runs nothing.
"""

from __future__ import annotations

import ast
import contextlib
import html
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


def run(cells: list[Cell], folder: Path) -> list[list[Cell]]:
    """The outputs of each cell, code or not, run one after another with `folder` as the current one."""
    names: dict[str, Any] = {"__name__": "__main__"}
    outputs, count = [], 0
    with contextlib.chdir(folder):
        for number, cell in enumerate(cells, start=1):
            if cell["cell_type"] != "code":
                outputs.append([])
                continue
            count += 1
            outputs.append(_run("".join(cell["source"]), f"cell {number}", names, count))
    return outputs


def _run(source: str, where: str, names: dict[str, Any], count: int) -> list[Cell]:
    """What one cell prints, and what its last line shows if that is an expression."""
    tree = ast.parse(source, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, shown = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), names)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), where, "eval"), names)
    found: list[Cell] = []
    if printed.getvalue():
        found.append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
    if shown is not None:
        here = f"{Path.cwd()}{os.sep}"  # whose machine it was run on is nobody's business
        data = {"text/plain": _lines(repr(shown).replace(here, ""))}
        if hasattr(shown, "_repr_html_"):
            data["text/html"] = _lines(shown._repr_html_().replace(here, ""))
        result = {"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"}
        found.append(result)
    return found


def execute(path: Path) -> None:
    """Run a notebook and write its outputs into it."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        outputs = run(notebook["cells"], Path(folder))
    count = 0
    for number, (cell, found) in enumerate(zip(notebook["cells"], outputs, strict=True), start=1):
        cell["id"] = f"cell-{number}"
        cell["source"] = _lines("".join(cell["source"]))
        if cell["cell_type"] == "code":
            count += 1
            cell["execution_count"], cell["outputs"] = count, found
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def page(path: Path) -> str:
    """The notebook as Markdown: text, code, and outputs as markup where there is some."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [_shown(output) for output in cell["outputs"]]
    parts.append(f"The notebook itself: [{path.name}]({path.name}).")
    return "\n\n".join(parts) + "\n"


def _shown(output: Cell) -> str:
    if output["output_type"] == "stream":
        return _plain("".join(output["text"]).rstrip())
    markup = output["data"].get("text/html")
    return "".join(markup) if markup else _plain("".join(output["data"]["text/plain"]))


def _plain(text: str) -> str:
    return f'<pre style="white-space: pre-wrap">{html.escape(text)}</pre>'


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def on_files(files: Any, config: Any) -> Any:
    """mkdocs: a page beside each notebook."""
    from mkdocs.structure.files import File

    for one in [file for file in files if file.src_uri.endswith(".ipynb")]:
        content = page(Path(one.abs_src_path))
        files.append(File.generated(config, one.src_uri.removesuffix(".ipynb") + ".md", content=content))
    return files


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for argument in sys.argv[1:]:
        execute(Path(argument))
