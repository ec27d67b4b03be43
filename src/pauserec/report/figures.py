"""The report's figures, as inline SVG that takes its foreground colour from the page (so it suits light and dark)."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

FOREGROUND = "#010203"
"""Stands for the page's text colour: replaced by `currentColor` in the SVG."""
BLUE, ORANGE, GREEN, GREY = "#3d7edb", "#e0822b", "#2a9d76", "#8a93a3"
"""Legible on white and on near-black, and told apart by people who do not see red or green."""
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names come from recipes and data: a dollar sign is a dollar sign
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": FOREGROUND,
    "axes.edgecolor": FOREGROUND,
    "axes.labelcolor": FOREGROUND,
    "xtick.color": FOREGROUND,
    "ytick.color": FOREGROUND,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
MOST_POINTS = 1500
"""Rows of one kind drawn in a scatter; more are sampled."""

Points = Sequence[tuple[float, float]]


def interval_chart(values: Mapping[str, tuple[float, float, float]], label: str) -> str:
    """One row per model: (value, low, high) as a point and its 95% interval."""
    with _figure("interval" + label, 7.2, 0.55 + 0.34 * len(values)) as (figure, svg):
        axes = figure.add_subplot()
        for row, (value, low, high) in enumerate(values.values()):
            axes.plot([low, high], [row, row], color=BLUE, linewidth=2.2, solid_capstyle="round", alpha=0.55)
            axes.plot([value], [row], "o", color=BLUE, markersize=6)
        axes.set_yticks(range(len(values)), [drawable(name) for name in values])
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
    return svg[0]


def cost_chart(points: Mapping[str, tuple[float, float]], x_label: str, y_label: str) -> str:
    """Value against cost, a named point for each model: {name: (cost, value)}; the cost axis is logarithmic."""
    shown = {
        name: (max(cost, 1e-3), value) for name, (cost, value) in points.items()
    }  # counting takes no time to speak of
    from matplotlib.ticker import LogLocator

    with _figure(x_label + y_label, 7.2, 2.9) as (figure, svg):
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda *_: "")
        gap, free = 0.06 * max((value for _, value in shown.values()), default=0.0), 0.0
        for name, (cost, value) in sorted(shown.items(), key=lambda entry: entry[1][1]):
            free = max(value, free + gap)  # names of neighbours do not lie on each other
            axes.plot([cost], [value], "o", color=BLUE, markersize=6)
            axes.text(cost, free, "   " + drawable(name), va="center", size=8)
        axes.margins(x=0.2, y=0.2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid()
    return svg[0]


def curve(points: Points, name: str, x_label: str, y_label: str, *, mark: bool = False) -> str:
    """A line through (x, y) points; with `mark`, each point is drawn and the highest is ringed."""
    with _figure(name + y_label, 3.5, 2.15) as (figure, svg):
        axes = figure.add_subplot()
        x, y = np.array(points, dtype=float).T
        axes.plot(x, y, color=GREEN if mark else BLUE, linewidth=1.4, marker="o" if mark else None, markersize=3.5)
        if mark:
            best = int(y.argmax())
            axes.plot(x[best], y[best], "o", markersize=9, markerfacecolor="none", markeredgecolor=ORANGE)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid()
    return svg[0]


def projected(groups: Mapping[str, npt.NDArray[np.floating]], axes_2d: "Plane", name: str, seed: int = 0) -> str:
    """Rows of an embedding table on a plane. groups: kind -> [rows, width]; the last kind is drawn as a star."""
    with _figure("pca" + name, 3.5, 3.0) as (figure, svg):
        axes = figure.add_subplot()
        *clouds, star = groups.items()
        for (kind, rows), colour in zip(clouds, (GREY, BLUE, GREEN), strict=False):
            x, y = axes_2d(sampled(rows, seed)).T
            axes.scatter(x, y, s=5, color=colour, alpha=0.6, linewidths=0, rasterized=True)
            axes.plot([], [], "o", color=colour, markersize=5, label=kind)
        if len(star[1]):
            x, y = axes_2d(star[1]).T
            axes.plot(x, y, "*", color=ORANGE, markersize=12, markeredgecolor=FOREGROUND, label=star[0])
        axes.set_xlim(axes_2d.limits[0])
        axes.set_ylim(axes_2d.limits[1])
        axes.set_xlabel(f"PC 1 ({axes_2d.shares[0]:.0%} of variance)")
        axes.set_ylabel(f"PC 2 ({axes_2d.shares[1]:.0%})")
        figure.legend(loc="outside upper center", ncols=3, handletextpad=0.2)
    return svg[0]


class Plane:
    """The first two principal axes of some rows, to project others onto the same plane."""

    def __init__(self, rows: npt.NDArray[np.floating]) -> None:
        """rows: [n, width], n >= 2 and width >= 2."""
        self.mean = rows.mean(axis=0, dtype=np.float64)
        _, lengths, axes = np.linalg.svd(rows - self.mean, full_matrices=False)
        # an axis has no sign of its own: point its largest entry up, so that every run draws the same picture
        signs = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])
        self.axes = axes[:2] * np.where(signs == 0, 1, signs)[:, None]
        self.shares = (lengths**2 / max(float((lengths**2).sum()), 1e-30))[:2]
        """Share of the rows' variance along each axis."""
        points = self(rows)
        low, high = points.min(axis=0), points.max(axis=0)
        margin = 0.05 * (high - low) + 1e-6
        self.limits = np.stack([low - margin, high + margin], axis=1)
        """[2, 2] (low, high) of each axis, with room around the rows."""

    def __call__(self, rows: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Coordinates: [n, width] -> [n, 2]."""
        coordinates: npt.NDArray[np.floating] = (rows - self.mean) @ self.axes.T
        return coordinates


def sampled(rows: npt.NDArray[np.floating], seed: int = 0) -> npt.NDArray[np.floating]:
    """At most MOST_POINTS rows, drawn without replacement."""
    if len(rows) <= MOST_POINTS:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), MOST_POINTS, replace=False))]


def drawable(text: str) -> str:
    """Text that a font renderer takes and a figure has room for: no control characters, at most 40 long."""
    clean = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return clean if len(clean) <= 40 else clean[:39] + "…"


@contextmanager
def _figure(salt: str, width: float, height: float) -> Iterator[tuple[Any, list[str]]]:
    """A figure to draw on; its SVG stands in the list afterwards. Size in inches; `salt` keeps element ids apart."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "svg.hashsalt": repr(salt)}):
        figure, svg = Figure(figsize=(width, height), layout="constrained"), list[str]()
        FigureCanvasSVG(figure)
        yield figure, svg
        target = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(target, format="svg", transparent=True, dpi=170, metadata=nothing)
    text = target.getvalue()
    svg.append(text[text.index("<svg") :].replace(FOREGROUND, "currentColor"))
