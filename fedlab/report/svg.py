"""Matplotlib figures as inline SVG that follows the page: its fonts, its colours, its light and dark.

Figures are drawn in placeholder colours, which become CSS variables. Text stays text. Identifiers are
made unique per figure, metadata and namespaces (the only URLs that matplotlib writes) are dropped, and
`svg.hashsalt` together with `Date: None` gives the same bytes for the same data.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, LINE, BAD, CALM, PAPER, *SERIES = (f"#0{i:x}0{i:x}0{i:x}" for i in range(1, 13))
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", BAD: "bad", CALM: "calm", PAPER: "paper"}
_VARIABLES |= {colour: f"series-{place}" for place, colour in enumerate(SERIES, start=1)}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # "$" in a name is a dollar, not a formula
    "font.size": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}


def inline(name: str, description: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> Markup:
    """Draw on a fresh figure of `size` inches and return an <svg> element.

    Args:
        name: prefix of the identifiers, unique on the page.
        description: what a screen reader says; may hold text from the run.
    """
    with matplotlib.rc_context():
        # What a user's matplotlibrc says must not change the bytes.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        matplotlib.rcParams["svg.hashsalt"] = name
        figure = Figure(figsize=size, dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(stream.getvalue())
    _tidy(root, name)
    root.attrib = {
        "class": "figure",
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": description,
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _tidy(element: ElementTree.Element, name: str) -> None:
    """Drop metadata and style, namespaces and fonts; name identifiers and colours for the page."""
    element.tag = element.tag.rpartition("}")[2]
    attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
    for key, value in attributes.items():
        if key == "id":
            value = f"{name}-{value}"
        elif key == "href":
            value = f"#{name}-{value.removeprefix('#')}"
        value = value.replace("url(#", f"url(#{name}-")
        if key == "style":
            value = re.sub(r"font-family: [^;]*(; )?", "", value)
            for colour, variable in _VARIABLES.items():
                value = value.replace(colour, f"var(--{variable})")
        attributes[key] = value
    element.attrib = attributes
    for child in list(element):
        if child.tag.rpartition("}")[2] in ("metadata", "style"):
            element.remove(child)
        else:
            _tidy(child, name)
