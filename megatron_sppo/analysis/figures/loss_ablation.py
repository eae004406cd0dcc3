"""Fig. 4: does the loss make the difference, or the sequence-level baseline? SPPO, PPO and PPO with SPPO's loss."""

from __future__ import annotations

from megatron_sppo.analysis.drawing import new_figure
from megatron_sppo.analysis.figures.chart import Chart, Evidence, NotDrawn
from megatron_sppo.analysis.figures.methods_drawn import INTERVAL, draw_methods, numbers, same_benchmarks, seeds_of

ABLATED = ("sppo", "ppo", "ppo_bce")


def draw(evidence: Evidence) -> tuple[Chart, ...]:
    runs = [run for run in evidence.runs if run.algorithm in ABLATED and run.scores()]
    kinds = {run.algorithm for run in runs}
    if len(kinds) < 2:
        found = ", ".join(sorted(kinds)) or "none"
        raise NotDrawn(f"it compares sppo, ppo and ppo_bce; of these, the runs that have validations are of {found}")
    score = same_benchmarks(runs)
    methods = seeds_of(evidence.methods(runs), evidence.looks())
    figure = new_figure(8.2)
    draw_methods(figure.subplots(), methods, 1.0, "step", score)
    caption = f"PPO's token-level critic learns by squared error, that of PPO + BCE by SPPO's binary cross-entropy. {INTERVAL}"
    return (Chart("loss_ablation", "Loss ablation", caption, figure, (numbers("loss_ablation", methods, "step"),)),)
