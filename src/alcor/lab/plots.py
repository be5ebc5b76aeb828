"""The report's plots, as SVG text to put into a page. Called by report. matplotlib enters through this file only.

Text stays text (searchable, in the page's own font) and takes the page's colour, so that a plot fits a light page and a
dark one. Same numbers, same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from alcor.lab.results import Scale, percentile

ONE, MANY = "#c2703d", "#2f7dd1"
"""Colours of "one after another" and "all at once", in every plot."""
INK = "#010203"
"""Stands for the page's text colour; replaced by currentColor."""
SIZE = (6.2, 3.5)
SEED_PER_MINUTE = 1000


def latency(scales: Sequence[Scale], one: str, many: str, what: str) -> str:
    """Milliseconds against the number of ports, both logarithmic: `one` after another against `many` at once."""
    with _figure("latency" + what) as (figure, axes):
        ports = [scale.ports for scale in scales]
        for values, label, colour, above in (
            ([scale.serial_ms for scale in scales], one, ONE, True),
            ([scale.batch_ms for scale in scales], many, MANY, False),
        ):
            axes.plot(ports, values, marker="o", markersize=5, linewidth=2, color=colour, label=label)
            for x, y in zip(ports, values, strict=True):
                offset = (0, 8) if above else (0, -15)
                axes.annotate(
                    _ms(y), (x, y), offset, textcoords="offset points", ha="center", fontsize=8.5, color=colour
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(NullLocator())
        axes.set_xticks(ports, [f"{port:,}" for port in ports])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(base=10))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _ms(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.08, y=0.18)
        axes.set_xlabel("ports")
        axes.set_ylabel(what)
        axes.legend(loc="upper left", frameon=False, labelcolor=INK)
        return _svg(figure)


def distribution(values_ms: Sequence[float]) -> str:
    """How long single ports took: a histogram with its median and 99th percentile."""
    with _figure("distribution") as (figure, axes):
        ordered = sorted(values_ms)
        median, tail = percentile(ordered, 0.5), percentile(ordered, 0.99)
        top = max(tail * 1.25, ordered[0] * 1.5, 1.0)
        shown = [min(value, top) for value in ordered]
        counts, _, _ = axes.hist(shown, bins=min(40, max(8, len(ordered) // 5)), range=(0, top), color=MANY, rwidth=0.9)
        highest = max(float(count) for count in counts)
        for value, label in ((median, f"p50 {_ms(median)}"), (tail, f"p99 {_ms(tail)}")):
            axes.axvline(value, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                label, (value, highest * 1.06), (5, 0), textcoords="offset points", fontsize=9, color=INK, va="bottom"
            )
        axes.set_ylim(0, highest * 1.25)
        axes.set_xlim(0, top * 1.12)
        beyond = sum(value > top for value in ordered)
        axes.set_xlabel("ms from POST to ACTIVE" + (f" ({beyond} beyond {_ms(top)} in the last bar)" if beyond else ""))
        axes.set_ylabel(f"of {len(ordered)} ports")
        return _svg(figure)


def recoveries(whole: Mapping[str, Sequence[float]], around: Mapping[str, Sequence[float]]) -> str:
    """Milliseconds by kind of fault, a dot each: until all was whole, and until there was a way around."""
    kinds = sorted(whole, reverse=True)
    with _figure("recoveries", (6.2, 1.0 + 0.2 * len(kinds))) as (figure, axes):
        for values, label, colour, lift in (
            (whole, "whole again, after its end", MANY, 0.14),
            (around, "a way around, from its beginning", ONE, -0.14),
        ):
            xs = [max(value, 1.0) for kind in kinds for value in values[kind]]
            ys = [place + lift for place, kind in enumerate(kinds) for _ in values[kind]]
            axes.scatter(xs, ys, s=12, color=colour, label=label, alpha=0.8, linewidths=0)
        axes.set_xscale("log")
        axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _ms(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=2, frameon=False, labelcolor=INK, fontsize=8.5)
        return _svg(figure)


def rates(bars: Sequence[tuple[str, float, str]], goal: float) -> str:
    """Ports per minute on one host, a bar each (name, rate, colour), beside the seed's promise and our goal."""
    with _figure("rates") as (figure, axes):
        named = [("the seed's promise", float(SEED_PER_MINUTE), "#8a8f98"), *bars]
        labels, values, colours = [list(column) for column in zip(*named, strict=True)]
        axes.barh(labels, values, color=colours, height=0.55)
        for place, value in enumerate(values):
            axes.annotate(
                f"{value:,.0f}", (value, place), (6, 0), textcoords="offset points", va="center", fontsize=9, color=INK
            )
        axes.axvline(goal, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"goal {goal:,.0f}",
            (goal, -0.5),
            (5, -2),
            textcoords="offset points",
            fontsize=9,
            color=INK,
            va="top",
        )
        axes.set_xlim(0, max(*values, goal) * 1.18)
        axes.set_ylim(-0.6, len(values) - 0.5)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("ports per minute on one host")
        return _svg(figure)


def _ms(value: float) -> str:
    if value >= 1000:
        return f"{value / 1000:.3g} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.2g} ms"


@contextmanager
def _figure(salt: str, size: tuple[float, float] = SIZE) -> Iterator[tuple[Figure, Axes]]:
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "font.size": 9.5,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.edgecolor": "#8a8f98",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#8a8f98",
        "grid.alpha": 0.25,
        "axes.axisbelow": True,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        yield figure, axes


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'font-family: [^;"]*', "font-family: inherit", text)
    # The page's width; the viewBox keeps the proportions.
    return re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1)
