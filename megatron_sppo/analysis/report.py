"""``report.html``: one self-contained file with the plots and numbers of a run."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_sppo.analysis.drawing import DPI, new_figure
from megatron_sppo.analysis.page import document, image, plain
from megatron_sppo.analysis.plots import PLOTS, Plot
from megatron_sppo.analysis.run_files import Accuracy, Run, read_run


def write_report(run_dir: Path, title: str) -> Path:
    """Draw ``run_dir`` into ``plots/*.png`` and ``report.html`` there; returns the latter. UserError without metrics."""
    run_dir = Path(run_dir)
    run = read_run(run_dir)
    folder = run_dir / "plots"
    folder.mkdir(exist_ok=True)
    drawn = {plot.title: _draw(plot, run, folder / f"{plot.name}.png") for plot in PLOTS}
    images = {name: png for name, png in drawn.items() if png is not None}
    page = _page(title, run, images, missing=[name for name, png in drawn.items() if png is None])
    report = run_dir / "report.html"
    report.write_text(page, encoding="utf-8")
    return report


def _draw(plot: Plot, run: Run, path: Path) -> bytes | None:
    """The PNG, also written to ``path``; None where the run has nothing to draw."""
    figure = new_figure()
    path.unlink(missing_ok=True)  # of an earlier report whose run had this metric
    if not plot.draw(figure, run):
        return None
    figure.suptitle(plot.title, fontsize=12)
    figure.savefig(path, dpi=DPI)
    return path.read_bytes()


def _page(title: str, run: Run, images: Mapping[str, bytes], missing: list[str]) -> str:
    figures = "\n".join(f"<figure>{image(name, png)}</figure>" for name, png in images.items())
    left_out = f'<p class="note">Not drawn, because the run has no such metrics: {", ".join(missing)}.</p>' if missing else ""
    tables = f"{_accuracy_table(run.validations)}{_summary_table(run.summary)}"
    return document(title, f'{tables}\n<div class="plots">\n{figures}\n</div>\n{left_out}')


def _accuracy_table(validations: Mapping[str, tuple[Accuracy, ...]]) -> str:
    if not validations:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(label)}</td>{_cell(points[0])}{_cell(points[-1])}"
        f'<td class="number">{100 * (points[-1].mean - points[0].mean):+.1f} points</td></tr>'
        for label, points in validations.items()
    )
    return f"<table><tr><th>held-out accuracy</th><th>first</th><th>last</th><th>change</th></tr>{rows}</table>"


def _cell(point: Accuracy) -> str:
    interval = "" if math.isnan(point.low) else f" ({100 * point.low:.1f} to {100 * point.high:.1f})"
    return f'<td class="number">{100 * point.mean:.1f} %{interval}, step {point.step}</td>'


def _summary_table(summary: Mapping[str, Any]) -> str:
    if not summary:
        return ""
    rows = "".join(
        f'<tr><td>{html.escape(name.replace("_", " "))}</td><td class="number">{html.escape(plain(value))}</td></tr>'
        for name, value in summary.items()
    )
    return f"<table>{rows}</table>"
