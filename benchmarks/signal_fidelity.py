"""The cost and the accuracy of the stored signal: bytes per token, and divergence from the target's own distribution.

    python benchmarks/signal_fidelity.py

SmolLM2-135M-Instruct in float32 answers held-out biology prompts, once with each signal. Its own distribution at every
token, from a fresh forward over prompt and answer, is compared with what is read back from disk. Takes about 3 minutes
on two idle cores. All divergences are in nats, averaged over tokens:

exact     KL(own || read): the last hidden state, kept in bfloat16, through the target's own head.
compact   spread: KL(own || kept top-k, with the tail's mass spread evenly over all other ids), over
          the full vocabulary: the price of not knowing the tail.
          lost: what forward KL to a draft loses by seeing the tail as one bucket,
          KL(own || draft) - KL(read || draft) with both summed up to k + 1 cells. By the chain rule
          it is tail mass x KL inside the tail (plus rounding): the part of the loss, and with it of
          the gradient, that a compact signal cannot give. The draft is that of --run, otherwise four
          untrained layers of the target, which is as far off as a draft gets.

Goals: exact at most 1.3 kB per token and KL at most 1e-4; compact at most 0.4 kB.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.capture.answered import AnsweredPrompt
from engine.capture.plan import plan_capture
from engine.capture.signal import CompactSignal, ExactSignal, LogitsSignal
from engine.capture.store import Capture, make_capture
from engine.config.reading import parse_section
from engine.config.schema import DEFAULT_TARGET, CaptureSpec, DraftSpec, ModelSpec, PromptSource
from engine.data.readers import read_prompts
from engine.distill.losses import Context, forward_kl
from engine.models.draft import Draft, initialise_draft, load_draft
from engine.models.head import Head
from engine.models.load import LoadedModel, load_model
from engine.paths import home
from engine.progress import Progress
from engine.runs.folder import RunFolder

HELDOUT = "sample_data/prompts/biology/heldout.jsonl"
GOAL_BYTES = {"exact": 1300, "compact": 400}
GOAL_NATS = 1e-4
CHUNK = 128  # positions compared at once: some tensors of [128, vocabulary] in float32


def captured(target: LoadedModel, kind: str, options: argparse.Namespace, folder: Path) -> Capture:
    """The target's answers with one kind of signal; the same answers for both, since the seed is the same."""
    prompts = read_prompts([PromptSource(path=options.file, limit=options.prompts)]).prompts
    settings = parse_section(
        CaptureSpec, {"max_new_tokens": options.tokens, "signal": kind, "signal_top_k": options.top_k}
    )
    plan = plan_capture(folder, target, prompts, settings)
    return make_capture(plan, target, batch_size=16, progress=Progress())


def bytes_a_token(capture: Capture) -> dict[str, float]:
    """Of the signal alone, and of the whole folder, ids and names included."""
    on_disk = sum(path.stat().st_size for path in capture.folder.iterdir())
    return {"signal": capture.counts.signal_bytes / capture.tokens, "folder": on_disk / capture.tokens}


@torch.no_grad()
def own_logits(model: Any, answer: AnsweredPrompt) -> torch.Tensor:
    """A model's logits at each token of the answer: [token, vocab], from one forward over all of it."""
    ids = torch.tensor([[*answer.prompt_ids, *answer.token_ids[:-1]]], device=model.device)
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0, len(answer.prompt_ids) - 1 :]
    return logits.float()


def spread(signal: CompactSignal, vocab: int) -> torch.Tensor:
    """Log-probabilities with the tail's mass shared out evenly among the ids not kept: [position, vocab]."""
    rest = vocab - signal.token_ids.shape[1]
    each = (signal.tail_mass.clamp_min(1e-12) / rest).log().unsqueeze(-1)
    return each.repeat(1, vocab).scatter(-1, signal.token_ids, signal.logprobs)


@torch.no_grad()
def divergences(exact: Capture, compact: Capture, target: LoadedModel, draft: Draft) -> dict[str, torch.Tensor]:
    """Everything a token, in nats: [token] each."""
    head, vocab = Head.of(target.model), target.vocab_rows
    parts: dict[str, list[torch.Tensor]] = {}
    for one, other in zip(exact.answers, compact.answers, strict=True):
        if (one.prompt_id, one.token_ids) != (other.prompt_id, other.token_ids):
            raise SystemExit(f"the two captures have different answers to {one.prompt_id}")
        target_logits, draft_logits = own_logits(target.model, one), own_logits(draft.model, one)
        raw = {"exact": exact.raw_signal(one), "compact": compact.raw_signal(other)}
        for start in range(0, len(one.token_ids), CHUNK):
            part = slice(start, start + CHUNK)
            hidden = exact.format.decode(raw["exact"][part], head, target.device)
            kept = compact.format.decode(raw["compact"][part], None, target.device)
            assert isinstance(hidden, ExactSignal)
            assert isinstance(kept, CompactSignal)
            own, proposed = LogitsSignal(target_logits[part]), draft_logits[part]
            tokens = torch.tensor(one.token_ids[part])
            context = Context(tokens, torch.zeros(len(tokens)))  # forward KL looks at neither
            values_of = {
                "exact": forward_kl(head.logits(hidden.hidden), own, context),
                "spread": forward_kl(spread(kept, vocab), own, context),
                "kept": 1 - kept.tail_mass,
                "to_draft": forward_kl(proposed, own, context),
                "to_draft_compact": forward_kl(proposed, kept, context),
            }
            for name, values in values_of.items():
                parts.setdefault(name, []).append(values.double().cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both captures and all figures."""
    if options.run is None:
        target = load_model(ModelSpec(model=DEFAULT_TARGET), dtype="float32")
        draft = initialise_draft(target, DraftSpec(layers=4), seed=0)
    else:
        run = RunFolder.open(home(), options.run)
        target = load_model(run.recipe().target, dtype="float32")
        draft = load_draft(run.path / "draft" / "best", target)
    exact, compact = (captured(target, kind, options, folder) for kind in ("exact", "compact"))
    values_by_name = divergences(exact, compact, target, draft)
    mean = {name: float(values.mean()) for name, values in values_by_name.items()}
    return {
        "tokens": exact.tokens,
        "prompts": len(exact.answers),
        "exact": {"bytes": bytes_a_token(exact), "kl": mean["exact"], "kl_most": float(values_by_name["exact"].max())},
        "compact": {
            "top_k": options.top_k,
            "bytes": bytes_a_token(compact),
            "kept_mass": mean["kept"],
            "kept_mass_5th_percentile": float(values_by_name["kept"].quantile(0.05)),
            "kl_spread": mean["spread"],
            "kl_to_draft": mean["to_draft"],
            "kl_to_draft_bucketed": mean["to_draft_compact"],
            "kl_lost": mean["to_draft"] - mean["to_draft_compact"],
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure in a temporary folder; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="run whose target and best draft are taken")
    parser.add_argument("--file", default=HELDOUT, help="prompt file")
    parser.add_argument("--prompts", type=int, default=48, help="how many of its prompts")
    parser.add_argument("--tokens", type=int, default=96, help="length limit of an answer")
    parser.add_argument("--top-k", type=int, default=64, help="log-probabilities kept by the compact signal")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="signal-") as folder:
        figures = measure(options, Path(folder))
    exact, compact = figures["exact"], figures["compact"]
    small = all(figures[kind]["bytes"]["signal"] <= goal for kind, goal in GOAL_BYTES.items())
    passed = small and exact["kl"] <= GOAL_NATS
    if options.json:
        print(json.dumps({"passed": passed, **figures}, indent=2))
        return 0 if passed else 1
    print(f"{figures['prompts']} answers, {figures['tokens']:,} tokens; nats, mean over tokens")
    print(
        f"exact: {exact['bytes']['signal']:.0f} bytes a token ({exact['bytes']['folder']:.0f} with ids), "
        f"KL(own || read) {exact['kl']:.2e}, at most {exact['kl_most']:.1e} at one token"
    )
    print(
        f"compact, k = {compact['top_k']}: {compact['bytes']['signal']:.0f} bytes a token "
        f"({compact['bytes']['folder']:.0f} with ids), kept mass {compact['kept_mass']:.4f} "
        f"(5th percentile {compact['kept_mass_5th_percentile']:.3f}), KL(own || tail spread) {compact['kl_spread']:.4f}"
    )
    print(
        f"compact: KL to the draft {compact['kl_to_draft']:.4f}, bucketed {compact['kl_to_draft_bucketed']:.4f}, "
        f"lost {compact['kl_lost']:.4f} ({compact['kl_lost'] / compact['kl_to_draft']:.1%})"
    )
    print(
        f"exact {exact['bytes']['signal'] / 1e3:.2f} kB and {exact['kl']:.1e} nats, compact "
        f"{compact['bytes']['signal'] / 1e3:.2f} kB a token: goals {'met' if passed else 'MISSED'}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
