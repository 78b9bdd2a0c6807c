"""What a server's truncated signal costs: acceptance of drafts that learn the same text from signals of four kinds.

    python benchmarks/served_signal.py                        # ten minutes on two idle cores
    python benchmarks/served_signal.py --seeds 0 1 2          # what docs/black-box.md shows: half an hour

The embedded target with the adapter for function calling is served by benchmarks/model_server.py, whose answers to the
training prompts are captured with the 20 likeliest tokens at each position (compact, from the server). The same
answers are then scored by the target here, so that all drafts learn the very same text:

full       every probability, from the last hidden state (capture.signal: exact)
server-20  what the server sent: its 20 likeliest tokens, the one written, and one bucket
local-20   the same from the model at hand; local-64: with 64 tokens, the default of a compact signal
text       the text alone (loss sft)

Everything else is equal: four layers of the target to begin with, forward KL, steps, order. It prints exact
acceptance on the target's own answers to the held-out prompts with its 95% interval over prompts, and the difference to
`full` and to `text`, paired by prompt. The runs are in a home of their own (--home), where a second call reuses what is
done.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.capture.answer import Answer
from engine.capture.batches import collate
from engine.capture.grouping import FORWARD_TOKENS, group_by_length
from engine.capture.plan import CapturePlan, plan_capture
from engine.capture.store import Capture, GrowingCapture, completed
from engine.config.schema import Recipe
from engine.decode.sampling import Sampling
from engine.measure.acceptance import PromptAcceptance, exact_of_drafts
from engine.measure.statistics import bootstrap_ratio, paired_difference
from engine.models.draft import load_draft
from engine.models.head import Head, hidden_states
from engine.models.load import LoadedModel
from engine.paths import PROJECT_ROOT, Home
from engine.progress import SILENT, Progress
from engine.records.interval import Interval
from engine.runs.execution import execute
from engine.runs.folder import RunFolder, run_folders
from engine.runs.plan import plan_heldout, plan_training, split_prompts
from engine.runs.recipes import read_recipe
from engine.runs.session import capture, load_target

ADAPTER = PROJECT_ROOT / "sample_data" / "targets" / "function_calling"
SERVED = "function-calling"
ARMS = {
    "full": ["capture.signal=exact"],
    "server-20": ["capture.signal=compact"],
    "local-20": ["capture.signal=compact", "capture.signal_top_k=20"],
    "local-64": ["capture.signal=compact", "capture.signal_top_k=64"],
    "text": ["capture.signal=none", "train.loss=sft"],
}


@contextlib.contextmanager
def serving(port: int) -> Iterator[str]:
    """The address of a server of the target; it ends with the block."""
    command = [sys.executable, str(PROJECT_ROOT / "benchmarks" / "model_server.py"), "--port", str(port)]
    process = subprocess.Popen([*command, "--adapter", str(ADAPTER), "--name", SERVED], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        while process.poll() is None:
            with contextlib.suppress(httpx2.HTTPError):
                httpx2.get(f"{url}/models", timeout=5)
                break
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def recipe_of(home: Home, arm: str, url: str, options: argparse.Namespace, seed: int) -> Recipe:
    """The recipe of a draft."""
    settings = [
        f"name={arm}-seed{seed}",
        "draft.init=layers",  # the generic draft has a trimmed vocabulary, which a compact signal cannot teach
        "draft.layers=4",
        "draft.checkpoint=null",
        "draft.vocabulary=null",
        f"prompts.train_prompts={options.prompts}",
        f"train.epochs={options.epochs}",
        f"train.seed={seed}",
        "train.eval_every=1000000",
        "train.eval_prompts=4",
        f"measure.heldout_prompts={options.heldout}",
        *ARMS[arm],
    ]
    if arm == "server-20":
        settings += [
            f"capture.server.base_url={url}",
            f"capture.server.model={SERVED}",
            "capture.server.logprobs=20",
            "capture.server.concurrency=64",
            "capture.server.timeout_s=3600",
        ]
    return read_recipe(home, str(PROJECT_ROOT / "recipes" / "quickstart.yaml"), settings, skip_bad=False)


@torch.no_grad()
def scored(plan: CapturePlan, answers: Capture, target: LoadedModel) -> Capture:
    """A capture of `plan` that holds the given answers, scored by the target: the same text with another signal."""

    def fill() -> None:
        growing = GrowingCapture(plan, SILENT)
        head, places = Head.of(target.model), {prompt.id: i for i, prompt in enumerate(plan.prompts)}
        for group in group_by_length([len(a.prompt_ids) + len(a.token_ids) for a in answers.answers], FORWARD_TOKENS):
            batch = collate(answers, [answers.answers[i] for i in group], target.device)
            hidden = hidden_states(target.model, batch.ids, batch.mask)[batch.responds]
            for i, states in zip(group, torch.split(hidden, batch.lengths), strict=True):
                answer = answers.answers[i]
                raw = plan.signal.encode(states, head.logits(states)).cpu()
                growing.add(places[answer.prompt_id], Answer(0, answer.token_ids, answer.finish_reason, raw, {}))
        growing.finish()

    return completed(plan, fill, SILENT)


def train_all(home: Home, url: str, options: argparse.Namespace) -> dict[str, RunFolder]:
    """The runs, trained, by name."""
    served = recipe_of(home, "server-20", url, options, options.seeds[0])
    target = load_target(served)
    prompts = split_prompts(served, target)
    answers = capture(
        "training", plan_training(home.captures, served, target, prompts.train), target, served.capture, Progress()
    )
    counts = answers.counts.server
    assert counts is not None
    assert counts.signal is not None
    print(
        f"{answers.counts.prompts} answers, {answers.tokens:,} tokens; the server's tokens hold "
        f"{1 - counts.signal.tail:.2%} of the probability (z of its text: {counts.signal.z:+.1f})",
        flush=True,
    )
    runs = {}
    for seed in options.seeds:
        for arm in ARMS:
            recipe = recipe_of(home, arm, url, options, seed)
            if arm != "server-20":
                scored(plan_capture(home.captures, target, prompts.train, recipe.capture), answers, target)
            begun = [one for one in run_folders(home) if one.recipe() == recipe]
            run = begun[0] if begun else RunFolder.create(home, recipe)
            began = time.monotonic()
            execute(home, run, quiet=True, until="train")
            print(f"trained {run.id} in {time.monotonic() - began:.0f} s", flush=True)
            runs[f"{arm}-seed{seed}"] = run
    return runs


def pooled(parts: Sequence[list[PromptAcceptance]]) -> tuple[list[float], list[int]]:
    """Sums of acceptance and of positions by prompt, over the drafts of several seeds."""
    sums = [float(sum(each.overlap.double().sum() for each in prompt)) for prompt in zip(*parts, strict=True)]
    return sums, [sum(len(each.overlap) for each in prompt) for prompt in zip(*parts, strict=True)]


def table(home: Home, runs: dict[str, RunFolder], options: argparse.Namespace, url: str) -> None:
    """Print exact acceptance of each kind of signal, and the differences."""
    recipe = recipe_of(home, "full", url, options, options.seeds[0])
    target = load_target(recipe)
    prompts = split_prompts(recipe, target)
    measured = {prompt.id for prompt in prompts.measured}
    # the last draft of each: the best one is chosen on other text in the arm of the server, greedy agreement
    drafts = {name: load_draft(run.path / "draft" / "last", target).model for name, run in runs.items()}
    for temperature, plan in plan_heldout(home.captures, recipe, target, prompts).items():
        heldout = capture(f"held-out T={temperature:g}", plan, target, recipe.capture, Progress())
        answers = [answer for answer in heldout.answers if answer.prompt_id in measured]
        results = exact_of_drafts(drafts, Head.of(target.model), heldout, Sampling(temperature), answers)
        sums = {arm: pooled([results[f"{arm}-seed{seed}"] for seed in options.seeds]) for arm in ARMS}
        print(f"\nT = {temperature:g}, {len(answers)} held-out prompts, seeds {options.seeds}")
        print("| signal | exact acceptance | minus full | minus text |\n|---|---|---|---|")
        for arm, mine in sums.items():
            against = [
                "" if arm == other else _shown(paired_difference(*sums[other], *mine), sign=True)
                for other in ("full", "text")
            ]
            print(f"| {arm} | {_shown(bootstrap_ratio(*mine))} | {' | '.join(against)} |", flush=True)


def _shown(value: Interval, *, sign: bool = False) -> str:
    form = "+.4f" if sign else ".4f"
    return f"{value.value:{form}} [{value.low:{form}}, {value.high:{form}}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("served-signal-home"))
    parser.add_argument("--port", type=int, default=8765, help="of the server; part of the capture's address")
    parser.add_argument("--prompts", type=int, default=96, help="training prompts")
    parser.add_argument("--heldout", type=int, default=36)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server ends too
    os.environ["DRAFTBENCH_HOME"] = str(options.home.absolute())
    home = Home(options.home.absolute())
    with serving(options.port) as url:
        runs = train_all(home, url, options)
    table(home, runs, options, url)


if __name__ == "__main__":
    main()
