"""What every figure shares: colours, axes, text that a user wrote, and how a figure becomes files."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

# Okabe and Ito's palette: told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#999999",
)
CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY)
INK = "#444444"  # of lines and words that stand for no method
RIGHT, WRONG = BLUE, RED  # responses, in the paper's colours
DPI = 130
LONGEST_LABEL = 40


def new_figure(width: float = 7.0, height: float = 4.2) -> Figure:
    """Without pyplot, so that nothing keeps it alive; inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish(axes: Axes, x_label: str, y_label: str, legend: bool = True) -> bool:
    """Labels, a light grid, no frame, and the legend above the axes, where it hides no data."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=x_label == "step", steps=(1, 2, 5, 10)))
    if legend and (handles := axes.get_legend_handles_labels()[0]):
        columns = 2 if len(handles) > 3 else len(handles)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=9, columnspacing=1.2)
    return True


def legend_beside(axes: Axes, *, reverse: bool = False) -> None:
    """To the right of the axes, in the order in which things were drawn."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.45), frameon=False, fontsize=9, reverse=reverse)


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last ``window`` values at each point (fewer at the start)."""
    return [sum(part) / len(part) for part in (values[max(0, i - window + 1) : i + 1] for i in range(len(values)))]


def words(text: str) -> str:
    """A name that a user chose, for a figure: no mathematics between dollars, one line, not endless, kept by a legend.

    Matplotlib reads ``$...$`` as TeX and leaves labels out of a legend that begin with an underscore.
    """
    one_line = "".join(" " if unicodedata.category(letter).startswith("C") else letter for letter in text)
    short = one_line if len(one_line) <= LONGEST_LABEL else one_line[: LONGEST_LABEL - 3] + "..."
    return (" " if short.startswith("_") else "") + short.replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """In 256 colours, a third of the bytes that nobody tells from all colours."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The same bytes each time: no date, and ids from a fixed salt."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "megatron-sppo"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
