"""``megatron-sppo report RUN... --out DIR``: the paper's figures from several runs, as PNG, SVG, CSV and one page."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path

from megatron_sppo.analysis import drawing
from megatron_sppo.analysis.compared_runs import Summary
from megatron_sppo.analysis.figures import grpo_advantage, loss_ablation, memory, score_time, token_values, value_vs_success
from megatron_sppo.analysis.figures.chart import Chart, Evidence, NotDrawn, Table
from megatron_sppo.analysis.page import document, image, table
from megatron_sppo.errors import UserError

# In the order of the page.
FIGURES: tuple[tuple[str, Callable[[Evidence], tuple[Chart, ...]]], ...] = (
    ("Score against training time (fig. 5)", score_time.draw_time),
    ("Score against generated tokens", score_time.draw_tokens),
    ("Loss ablation (fig. 4)", loss_ablation.draw),
    ("V along responses (figs. 1, 9)", token_values.draw),
    ("V against success (fig. 7)", value_vs_success.draw),
    ("Memory (fig. 6)", memory.draw),
    ("GRPO's implicit advantage (fig. 3)", grpo_advantage.draw),
)


def write_comparison(evidence: Evidence, out: Path, title: str) -> Path:
    """Every figure that the evidence allows into ``out``, and ``index.html``, which is returned and needs no other file."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder")
    out.mkdir(parents=True, exist_ok=True)
    sections, missing = [], []
    for name, draw in FIGURES:
        try:
            charts = draw(evidence)
        except NotDrawn as reason:
            missing.append((name, str(reason)))
            continue
        sections += [_section(chart, out) for chart in charts]
    runs = _runs(evidence)
    (out / f"{runs.name}.csv").write_text(runs.csv(), encoding="utf-8")
    body = [table(runs.header, runs.rows), *sections, _not_drawn(missing)]
    page = out / "index.html"
    page.write_text(document(title, "\n".join(body)), encoding="utf-8")
    return page


def _section(chart: Chart, out: Path) -> str:
    """Writes the chart's files; what the page says of it."""
    chart.figure.suptitle(drawing.words(chart.title), fontsize=12)
    png = drawing.png(chart.figure)
    (out / f"{chart.name}.png").write_bytes(png)
    (out / f"{chart.name}.svg").write_bytes(drawing.svg(chart.figure))
    for numbers in (*chart.numbers, *chart.shown):
        (out / f"{numbers.name}.csv").write_text(numbers.csv(), encoding="utf-8")
    files = [f"{chart.name}.svg", *(f"{numbers.name}.csv" for numbers in (*chart.numbers, *chart.shown))]
    links = ", ".join(f'<a href="{name}">{name}</a>' for name in files)
    return (
        f"<h2>{html.escape(chart.title)}</h2>\n<figure>{image(chart.title, png)}"
        f"<figcaption>{html.escape(chart.caption)}</figcaption></figure>\n"
        f"{''.join(table(shown.header, shown.rows) for shown in chart.shown)}"
        f'<p class="note">Beside this page: {links}</p>'
    )


def _runs(evidence: Evidence) -> Table:
    header = ("method", "seed", "run", "last step", "first score", "best", "last", "training minutes", "generated tokens")
    rows = []
    for runs in evidence.methods().values():
        for run in runs:
            found = Summary.of(run)
            scores = (found.first, found.best, found.last)
            rows.append((run.method, run.seed, run.name, found.last_step, *scores, found.minutes, found.tokens))
    return Table("runs", header, tuple(rows))


def _not_drawn(missing: list[tuple[str, str]]) -> str:
    if not missing:
        return ""
    rows = "".join(f"<li>{html.escape(name)}: {html.escape(reason)}.</li>\n" for name, reason in missing)
    return f"<h2>Not drawn</h2>\n<ul>\n{rows}</ul>\n"
