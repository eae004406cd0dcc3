"""What one GPU does: forward passes and updates in bf16 and FP8, whole SPPO steps, rollouts against bare vLLM; as tables.

    python tools/bench_gpu.py                       # everything, about 20 minutes on one H100; tables into BENCHMARKS.md
    python tools/bench_gpu.py --only models steps   # a part
    python tools/bench_gpu.py --tiny                # small shapes, any device: whether the program runs

Weights are random, of published shapes: nothing is fetched. Each measurement is a process of its own with a time limit; one that
fails is a row that says so, and the others go on. `--folder` keeps every result, and a part that is there is not repeated.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_quickstart import ROOT, commit, write

from megatron_sppo.monitor.jsonl import read_jsonl

BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
TOOLS = Path(__file__).resolve().parent
LIMIT_SECONDS = 420
PACKAGES = ("torch", "megatron-core", "transformer-engine", "vllm", "apex")


@dataclass(frozen=True)
class Job:
    """See tools/bench_gpu_model.py."""

    role: str
    shape: str
    layers: int
    recipe: str
    sequences: int = 8
    prompt: int = 128
    response: int = 8064
    repeats: int = 3
    recompute: str = "none"
    options: tuple[str, ...] = ()  # keys of the model's section

    @property
    def name(self) -> str:
        return "-".join([self.role, self.shape, f"{self.layers}L", self.recipe, *self.options])

    @property
    def plain(self) -> Job:
        """What it is compared with."""
        return replace(self, recipe="none", options=())

    def payload(self, folder: Path) -> dict[str, Any]:
        length = self.prompt + self.response
        shared = {
            "micro_batch_tokens": max(length, 8192),
            "recompute": self.recompute,
            "fp8.recipe": self.recipe,
            "optimizer.lr": 1e-6,
        }
        limits = [f"rollout.max_prompt_tokens={self.prompt}", f"rollout.max_response_tokens={self.response}"]
        overrides = [f"{self.role}.{key}" for key in (*(f"{key}={value}" for key, value in shared.items()), *self.options)]
        return {**asdict(self), "overrides": [*limits, *overrides], "logprobs": str(folder / f"{self.name}.pt")}


SMALL, SEVEN = "DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-Distill-Qwen-7B"
RECIPES = ("none", "delayed", "tensorwise", "blockwise")
MODELS = (
    *(Job("actor", SMALL, 0, recipe) for recipe in ("none", "tensorwise")),
    *(Job("actor", SMALL, 0, "none", options=(option,)) for option in ("fuse_swiglu=true", "logprob_chunk_tokens=4096")),
    Job("critic", SMALL, 0, "none", sequences=256, prompt=512, response=1),
    *(Job("actor", SEVEN, 8, recipe) for recipe in RECIPES),  # as many layers as leave room for two rows of activations
    *(Job("actor", SEVEN, 8, recipe, options=("fp8.parameters=true",)) for recipe in ("tensorwise", "blockwise")),
)
TINY = {"sequences": 4, "prompt": 32, "response": 96, "repeats": 1, "layers": 1, "shape": "Qwen2.5-0.5B"}
# Whole steps: 1.5B actor and critic, 8k responses; a random model hardly ever ends one early.
STEP_KEYS = (
    "steps=2",  # the first warms up
    "prompts_per_step=32",
    "actor.mini_batch_size=16",
    "critic.mini_batch_size=16",
    "actor.micro_batch_tokens=8192",
    "rollout.max_prompt_tokens=128",
    "rollout.max_response_tokens=8064",
    "rollout.max_num_seqs=32",
    "rollout.temperature=1.0",
    "validation.every=0",
    "validation.before_training=false",
    "checkpoint.export_hf=false",
    "reward.name=boxed_numeric",
)
STEPS = {
    "everything stays": ("offload=none", "rollout.sleep=false", "rollout.gpu_memory_utilization=0.15"),
    "offload=optimizer": ("offload=optimizer", "rollout.gpu_memory_utilization=0.4"),
    "offload=all": ("offload=all", "rollout.gpu_memory_utilization=0.4"),
    "FP8 update and rollouts": (
        "offload=all",
        "rollout.gpu_memory_utilization=0.4",
        "actor.fp8.recipe=tensorwise",
        "rollout.quantization=fp8",
    ),
}
NEEDS_GIB = {"everything stays": 100}  # of the device, by `megatron-sppo plan`
# On any device: the quickstart's model, a few short steps.
TINY_STEPS = {
    "tiny": (
        "prompts_per_step=8",
        "actor.mini_batch_size=4",
        "critic.mini_batch_size=4",
        "rollout.max_prompt_tokens=32",
        "rollout.max_response_tokens=32",
        "rollout.cpu_kv_cache_gib=0.25",
    )
}


def run_child(name: str, command: list[str], result: Path) -> dict[str, Any]:
    """The child's result, or {"failed": its last line}; a result of an earlier call is taken over."""
    if not result.is_file():
        print(f"{name} ...", flush=True)
        log = result.with_suffix(".log")
        with log.open("w", encoding="utf-8") as output:
            try:
                done = subprocess.run(
                    command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=LIMIT_SECONDS, check=False
                )
                ended = f"exit code {done.returncode}"
            except subprocess.TimeoutExpired:
                ended = f"no end within {LIMIT_SECONDS} s"
        if not result.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return {"failed": f"{ended}: {lines[-1][:120] if lines else 'no output'}"}
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def run_model(job: Job, folder: Path) -> dict[str, Any]:
    payload = folder / f"{job.name}.job.json"
    payload.write_text(json.dumps(job.payload(folder)), encoding="utf-8")
    result = folder / f"{job.name}.json"
    return run_child(job.name, [sys.executable, str(TOOLS / "bench_gpu_model.py"), str(payload), str(result)], result)


def model_table(jobs: list[Job], folder: Path) -> list[str]:
    columns = ["model", "layers", "products", "forward: tokens/s, MFU", "update: tokens/s, MFU", "against bf16", "peak GiB"]
    lines = header([*columns, "log-probs differ: mean, largest"])
    base: dict[tuple[str, str], dict[str, Any]] = {}
    for job in jobs:
        found = run_model(job, folder)
        products = " ".join(["bf16" if job.recipe == "none" else f"FP8 {job.recipe}", *job.options])
        what = f"{job.shape} {job.role} | {job.layers or 'all'} | {products}"
        if "failed" in found:
            lines.append(f"| {what} | {found['failed']} | | | | |")
            continue
        if job == job.plain:
            base[job.role, job.shape] = found
        reference = base.get((job.role, job.shape))
        faster = f"{reference['update']['seconds'] / found['update']['seconds']:.2f} x" if reference else "-"
        forward, update = (_rate(found[phase]) for phase in ("forward", "update"))
        lines.append(
            f"| {what} | {forward} | {update} | {faster} | {found['update']['peak_gib']:.1f} | {difference(job, folder)} |"
        )
    return lines


def header(columns: list[str]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def _rate(phase: dict[str, float]) -> str:
    mfu = f"{phase['mfu']:.1%}" if "mfu" in phase else "no known peak"
    return f"{phase['tokens_per_second']:,.0f}, {mfu}"


def difference(job: Job, folder: Path) -> str:
    """Mean and largest difference of the log-probs from those in bf16 by the same weights."""
    files = [folder / f"{each.name}.pt" for each in (job.plain, job)]
    if job == job.plain or not all(file.is_file() for file in files):
        return "-"
    reference, found = (torch.load(file, weights_only=True) for file in files)
    gap = (reference - found).abs()
    return f"{float(gap.mean()):.4f}, {float(gap.max()):.2f}"


def make_assets(folder: Path, tiny: bool) -> Path:
    """The quickstart's task and tokenizer beside a random model of the 1.5B shape, with the task's vocabulary."""
    assets = folder / "assets"
    if not (assets / "model" / "config.json").is_file():
        command = [sys.executable, "examples/quickstart/make_assets.py", "--output", str(assets), "--seed", "1"]
        subprocess.run(command, cwd=ROOT, check=True)
        if not tiny:
            save_large_model(assets / "model")
    return assets


def save_large_model(folder: Path) -> None:
    """In place of the quickstart's policy; the tokenizer stays. The vocabulary is the 1.5B model's, most of it never written."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from megatron_sppo.plan.shapes import KNOWN

    hf, old = KNOWN[SMALL], json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = Qwen2Config(
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        num_hidden_layers=hf.num_layers,
        num_attention_heads=hf.num_heads,
        num_key_value_heads=hf.num_kv_heads,
        intermediate_size=hf.ffn_size,
        max_position_embeddings=hf.max_positions,
        tie_word_embeddings=hf.tied_embeddings,
        eos_token_id=old["eos_token_id"],
        dtype="bfloat16",
    )
    torch.manual_seed(1)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.cpu().save_pretrained(folder)


def run_steps(name: str, keys: tuple[str, ...], assets: Path, folder: Path) -> dict[str, Any]:
    """Medians of a run's steps but the first, and the run's folder."""
    run_dir = folder / name.replace(" ", "_").replace("=", "_")
    result = run_dir / "train_summary.json"
    words = [f"run_dir={run_dir}", f"actor.path={assets / 'model'}", f"critic.path={assets / 'model'}"]
    words += [f"data.train=[{assets / 'train.jsonl'}]", *STEP_KEYS, *keys]
    run_dir.mkdir(parents=True, exist_ok=True)
    empty = folder / "empty.yaml"
    empty.write_text("{}\n", encoding="utf-8")
    command = [sys.executable, "-m", "megatron_sppo.cli", "train", str(empty), *words]
    found = run_child(name, command, result)
    if "failed" in found:
        return found
    rows = [row for row in read_jsonl(run_dir / "metrics.jsonl") if row["kind"] == "train"][1:]
    names = {key for row in rows for key in row if key.startswith(("time/", "perf/", "mismatch/", "rollout/"))}
    medians = {key: median(row[key] for row in rows if key in row) for key in names}
    return {"run_dir": str(run_dir), **medians}


PHASES = ("wake", "rollout", "sleep", "value", "old_logprobs", "critic_update", "actor_update", "reshard")


def step_table(folder: Path, tiny: bool) -> list[str]:
    seconds_of = [f"{phase}, s" for phase in PHASES]
    columns = ["run", "step, s", *seconds_of, "update MFU", "rollout tokens/s", "of bare vLLM"]
    lines, memory = header(columns), header(["peak GiB of", *PHASES])
    assets, bare = make_assets(folder, tiny), dict[str, Any]()
    for name, keys in (TINY_STEPS if tiny else STEPS).items():
        if device_gib() < NEEDS_GIB.get(name, 0):
            lines.append(f"| {name} | needs {NEEDS_GIB[name]} GiB |" + " |" * (len(columns) - 2))
            continue
        found = run_steps(name, keys, assets, folder)
        if "failed" in found:
            lines.append(f"| {name} | {found['failed']} |" + " |" * (len(columns) - 2))
            continue
        if not bare:
            result = folder / "bare_vllm.json"
            config = Path(found["run_dir"]) / "config.yaml"
            bare = run_child("bare vLLM", [sys.executable, str(TOOLS / "bench_gpu_rollout.py"), str(config), str(result)], result)
        sampled = found["rollout/tokens"] / found["time/rollout"]
        share = f"{sampled / bare['tokens_per_second']:.1%}" if "failed" not in bare else bare["failed"]
        seconds = " | ".join(f"{found.get(f'time/{phase}', 0.0):.2f}" for phase in PHASES)
        mfu = found.get("perf/actor_update/mfu")
        lines.append(
            f"| {name} | {found['time/step']:.1f} | {seconds} | {f'{mfu:.1%}' if mfu else '-'} | {sampled:,.0f} | {share} |"
        )
        peaks = " | ".join(f"{found.get(f'perf/{phase}/device_peak_gib', 0.0):.1f}" for phase in PHASES)
        memory.append(f"| {name} | {peaks} |")
    return [*lines, "", *memory]


def device_gib() -> float:
    """0 without a GPU."""
    return torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0.0


def versions() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def section(parts: list[list[str]], only: list[str]) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    command, today = f"`python tools/bench_gpu.py --only {' '.join(only)}`", dt.datetime.now(tz=dt.UTC).date()
    where = f"{command}, {today}, commit {commit()}, {device}; {versions()}"
    return "\n".join([BEGIN, "", where, *(line for part in parts for line in ("", *part)), "", END])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=("models", "steps"), default=["models", "steps"])
    parser.add_argument(
        "--tiny", action="store_true", help="small shapes in bf16 or fp32 alone; the tables are printed and not kept"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "bench_gpu", help="where results are kept")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        sys.exit("bench_gpu: error: no CUDA device here; --tiny tries the program on any")
    # Apart, so that a small model is never taken for a large one's.
    folder: Path = (arguments.folder / "tiny" if arguments.tiny else arguments.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    if "models" in arguments.only:
        tiny = [replace(job, **TINY) for job in MODELS if job.recipe == "none" and "fuse_swiglu=true" not in job.options][:3]
        parts.append(model_table(tiny if arguments.tiny else list(MODELS), folder))
    if "steps" in arguments.only:
        parts.append(step_table(folder, arguments.tiny))
    text = section(parts, arguments.only)
    print(text)
    if not arguments.tiny:
        write(text, BEGIN, END, "## One GPU")


if __name__ == "__main__":
    main()
