"""Decoding on a processor: fused linear layers and int8 weights beside the same model as torch computes it.

    python benchmarks/cpu_decode.py --out cpu_decode.json        # about 4 minutes on two idle cores
    python benchmarks/cpu_decode.py --rows forwards,rounding     # one forward of 1 to 8 tokens; what rounding changes

forwards   one forward of the target and of the draft with a cache of 200 tokens: as loaded, fused, int8
decode     plain and speculative decoding in bfloat16 and with int8 weights, beside `generate`
rounding   how often the quantised target's greedy token is the unquantised one's, and the draft's exact acceptance by
           both

All ways of a row take turns in one run on the same prompts. `generate` and "as loaded" compute as torch does for
everybody (`engine.models.fused_linears.as_loaded`).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.speed.decoding import Generate, OurLoop
from benchmarks.speed.pairs import Rounds, Way, interleave
from benchmarks.speed.record import Figure, Row, begin, pairs_of, row_of
from benchmarks.speed.session import Planned, refuse_busy, run
from benchmarks.speed.subjects import Subject, embedded
from engine.capture.batches import collate
from engine.capture.plan import plan_capture
from engine.capture.store import Capture, make_capture
from engine.chat.prompt import Prompt
from engine.config.schema import CaptureSpec, PromptSource
from engine.data.readers import read_prompts
from engine.decode.runner import AnyRunner, runner_for
from engine.decode.sampling import Sampling
from engine.errors import DraftbenchError
from engine.measure.acceptance import exact_acceptance
from engine.measure.statistics import bootstrap_ratio
from engine.models.fused_linears import as_loaded
from engine.models.head import Head, hidden_states
from engine.models.load import LoadedModel, load_model

DOMAIN, GAMMA = "function_calling", 3
CACHED, WIDTHS = 200, (1, 2, 4, 8)


@dataclass
class Forwards:
    """Forwards of `width` tokens after a cache of 200, the tokens taken back each time."""

    runner: AnyRunner
    width: int
    mode: Callable[[], contextlib.AbstractContextManager[None]]

    def __call__(self, number: int) -> float:
        ids = [(7 * number + place) % 1000 + 2 for place in range(self.width)]
        with self.mode():
            self.runner.feed([ids], last=self.width)
        self.runner.take_back([self.width])
        return 1.0


@torch.no_grad()
def forwards_row(subject: Subject, quantised: LoadedModel, rounds: int, folder: Path) -> Row:
    """One forward of 1 to 8 tokens by each way; the ratios are those of speed over the model as loaded."""
    plain: Callable[[], Any] = contextlib.nullcontext
    models = {
        "target_loaded": (subject.target.model, as_loaded),
        "target_fused": (subject.target.model, plain),
        "target_int8": (quantised.model, plain),
        "draft_loaded": (subject.draft.model, as_loaded),
        "draft_fused": (subject.draft.model, plain),
    }
    ways: dict[str, Way] = {}
    for name, (model, mode) in models.items():
        runner = runner_for(model)
        runner.feed([list(range(2, CACHED + 2))], last=1)
        ways |= {f"{name}_{width}": Forwards(runner, width, mode) for width in WIDTHS}
    pairs = [
        (f"{name}_{width}", f"{name.partition('_')[0]}_loaded_{width}")
        for name in models
        for width in WIDTHS
        if not name.endswith("_loaded")
    ]
    paired = interleave(ways, Rounds(rounds), unit="forwards", warm_up=2)
    title = f"One forward, {CACHED} tokens cached"
    return row_of("forwards", title, paired, pairs_of(*pairs), subject.conditions)


def decode_row(subject: Subject, quantised: LoadedModel, rounds: int, tokens: int, folder: Path) -> Row:
    """Plain and speculative decoding, in bfloat16 and with int8 weights, beside `generate`."""
    target, rounded, draft, prompts = subject.target.model, quantised.model, subject.draft.model, subject.prompts
    library, assisted = subject.library_target, {"assistant": subject.library_draft, "num_draft_tokens": GAMMA}
    loops = {
        "plain": OurLoop(target, None, prompts, 0, tokens),
        "plain_int8": OurLoop(rounded, None, prompts, 0, tokens),
        "speculative": OurLoop(target, draft, prompts, GAMMA, tokens),
        "speculative_int8": OurLoop(rounded, draft, prompts, GAMMA, tokens),
    }
    generate = Generate(library, prompts, tokens)
    ways: dict[str, Way] = {"generate": generate, "assisted": Generate(library, prompts, tokens, assisted), **loops}
    pairs = pairs_of(
        ("plain", "generate"),
        ("plain_int8", "generate"),
        ("plain_int8", "plain"),
        ("speculative", "plain"),
        ("speculative", "assisted"),
        ("speculative_int8", "plain_int8"),
        ("speculative_int8", "assisted"),
    )
    paired = interleave(ways, Rounds(rounds), unit="tokens", warm_up=1)
    conditions = {**subject.conditions, "tokens": tokens, "gamma": GAMMA, "temperature": 0}
    row = row_of("decode", f"Decoding {DOMAIN}, batch 1", paired, pairs, conditions)
    same = [ours == theirs for ours, theirs in zip(loops["plain"].texts(), generate.written.values(), strict=True)]
    figures = {**row.figures, "plain_writes_generates_text": Figure(value=sum(same) / len(same), unit="of prompts")}
    return row.model_copy(update={"figures": figures})


def rounding_row(subject: Subject, quantised: LoadedModel, prompts: int, tokens: int, folder: Path) -> Row:
    """What the rounded weights change: greedy tokens, and the acceptance of one and the same draft."""
    listed = read_prompts([PromptSource(path=f"sample_data/prompts/{DOMAIN}/heldout.jsonl", limit=prompts)]).prompts
    figures: dict[str, Figure] = {}
    for temperature in (0.0, 1.0):
        answers = {
            name: _answers(folder, target, listed, temperature, tokens)
            for name, target in (("bfloat16", subject.target), ("int8", quantised))
        }
        for name, target in (("bfloat16", subject.target), ("int8", quantised)):
            measured = exact_acceptance(
                subject.draft.model, Head.of(target.model), answers[name], Sampling(temperature)
            )
            by_prompt = [(float(one.overlap.sum()), len(one.token_ids)) for one in measured]
            figures[f"exact_{name}_T{temperature:g}"] = _share(by_prompt, "")
        if temperature == 0:
            figures["greedy_tokens_agree"] = _share(_agreement(quantised, answers["bfloat16"]), "of tokens")
            texts = [{a.prompt_id: a.token_ids for a in answers[name].answers} for name in ("bfloat16", "int8")]
            same = [texts[0][name] == texts[1][name] for name in texts[0]]
            figures["greedy_texts_agree"] = Figure(value=sum(same) / len(same), unit="of answers")
    conditions = {**subject.conditions, "prompts": len(listed), "tokens": tokens}
    title = "Target with int8 weights against the same in bfloat16"
    return Row(name="rounding", title=title, conditions=conditions, unit="tokens", samples={}, figures=figures)


def _answers(folder: Path, target: LoadedModel, prompts: Sequence[Prompt], temperature: float, tokens: int) -> Capture:
    settings = CaptureSpec(max_new_tokens=tokens, temperature=temperature)
    return make_capture(plan_capture(folder, target, prompts, settings), target, batch_size=8)


@torch.no_grad()
def _agreement(quantised: LoadedModel, capture: Capture) -> list[tuple[float, float]]:
    """Of each answer, the tokens that are the quantised target's likeliest too after the same text, and all tokens."""
    counts, head = [], Head.of(quantised.model)
    for answer in capture.answers:
        batch = collate(capture, [answer], quantised.device)
        hidden = hidden_states(quantised.model, batch.ids, batch.mask)[batch.responds]
        agreeing = (head.logits(hidden).argmax(-1) == batch.token_ids).sum()
        counts.append((float(agreeing), float(len(answer.token_ids))))
    return counts


def _share(by_prompt: Sequence[tuple[float, float]], unit: str) -> Figure:
    parts, wholes = zip(*by_prompt, strict=True)
    return Figure.of(bootstrap_ratio(list(parts), list(wholes)), unit)


def main(arguments: list[str] | None = None) -> int:
    """Measure the rows; 0 if all were measured, 1 if some were not, 2 for an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="forwards,decode,rounding", help="names separated by commas")
    parser.add_argument(
        "--rounds", type=int, default=12, help="prompts of the row decode; three times as many forwards"
    )
    parser.add_argument("--tokens", type=int, default=48, help="tokens of each answer")
    parser.add_argument("--prompts", type=int, default=24, help="prompts of the row rounding")
    parser.add_argument("--out", type=Path, help="JSON file, written after every row")
    parser.add_argument("--anyway", action="store_true", help="measure on a busy machine")
    given = parser.parse_args(arguments)
    try:
        if not given.anyway:
            refuse_busy()
        subject = embedded(DOMAIN, prompts=given.rounds, device="cpu")
        quantised = load_model(subject.target.spec.model_copy(update={"quantize": "int8"}), dtype="bfloat16")
        planned = {
            "forwards": Planned("forwards", 30, partial(forwards_row, subject, quantised, 3 * given.rounds)),
            "decode": Planned("decode", 120, partial(decode_row, subject, quantised, given.rounds, given.tokens)),
            "rounding": Planned("rounding", 60, partial(rounding_row, subject, quantised, given.prompts, given.tokens)),
        }
        names = given.rows.split(",")
        if unknown := set(names) - planned.keys():
            raise DraftbenchError(f"unknown row {min(unknown)!r}", "", f"one of {', '.join(planned)}")
    except DraftbenchError as error:
        print(error, file=sys.stderr)
        return 2
    report = begin("cpu_decode", sys.argv[1:] if arguments is None else arguments, "cpu")
    report = run([planned[name] for name in names], report, given.out)
    return 1 if report.skipped else 0


if __name__ == "__main__":
    sys.exit(main())
