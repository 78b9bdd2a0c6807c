"""Does `argmax`, from the exact pass, say what rounds with argmax proposals accept? On SmolLM2 and the generic draft.

    python benchmarks/argmax_rounds.py                # 2,000 rounds each way; about ten minutes on two cores
    python benchmarks/argmax_rounds.py --rounds 200 --prompts 12 --tokens 32 --json

The target answers held-out prompts at temperature 1. Then
- places of these answers are drawn, and a round that proposes one token is decoded at each: of these, as many must be
  accepted as the exact pass says of the very places (z) and, within the interval, as `argmax` says of the whole text;
- the tokens that came out must follow the target's distributions (chi-square: the proposed token is a cell, the others
  are cells of about equal mass; counts are added up over the places, which can only make them vary less). If a refused
  token may be drawn again, the proposed tokens come out more often than p of them says (z);
- the prompts are decoded whole, with gamma 3: accepted over proposed tokens must lie where `predicted_rounds` says,
  from the captured answers alone.

Exits with status 1 if one of them does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.capture.plan import plan_capture
from engine.capture.store import Capture, make_capture
from engine.config.schema import DEFAULT_TARGET, CaptureSpec, ModelSpec, PromptSource
from engine.data.readers import read_prompts
from engine.decode.counts import count
from engine.decode.events import Fate, Round
from engine.decode.sampling import Sampling, distribution
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import speculative_decode
from engine.measure.acceptance import PromptAcceptance, exact_acceptance
from engine.measure.certificate import LEAST_P_VALUE, pool_rare
from engine.measure.statistics import ALARM_Z, bootstrap_ratio, calibration_z
from engine.measure.text_rounds import for_other_texts, predicted_rates, predicted_rounds
from engine.models.draft import load_draft
from engine.models.head import Head
from engine.models.load import load_model

GAMMA, CELLS, AT_ONCE = 3, 10, 24
BROKEN = 500  # rounds with the broken rule: enough to see it
DRAWN = Sampling(1.0)


@dataclass(frozen=True)
class Place:
    """A position of an answer: what comes before it, the draft's likeliest token there is not known yet."""

    prefix: list[int]
    p: torch.Tensor  # [vocab], the target's distribution
    argmax_prob: float  # of the exact pass


def places_of(capture: Capture, results: Sequence[PromptAcceptance], head: Head, wanted: int, seed: int) -> list[Place]:
    """Positions drawn from all of the text, each as likely as another."""
    every = [(row, at) for row, result in enumerate(results) for at in range(len(result.token_ids))]
    chosen = np.random.default_rng(seed).choice(len(every), wanted, replace=wanted > len(every))
    states: dict[int, torch.Tensor] = {}
    places = []
    for row, at in (every[i] for i in sorted(chosen)):
        answer = capture.answers[row]
        if row not in states:
            states = {row: capture.raw_signal(answer).view(torch.bfloat16)}
        with torch.no_grad():
            p = distribution(head.logits(states[row][at : at + 1].to(head.weight.dtype)), DRAWN)[0]
        places.append(Place([*answer.prompt_ids, *answer.token_ids[:at]], p, float(results[row].argmax_prob[at])))
    return places


def first_rounds(target: object, draft: object, places: Sequence[Place], seed: int) -> Iterator[Round]:
    """One round at each place, proposing one token; in the order of the places."""
    settings = DecodeSettings(DRAWN, FixedLength(1), 2, frozenset(), seed, "argmax")
    for start in range(0, len(places), AT_ONCE):
        part = places[start : start + AT_ONCE]
        names = [f"place {start + i}" for i in range(len(part))]
        decoding = speculative_decode(target, draft, [place.prefix for place in part], settings, names=names)
        yield from (next(decoding) for _ in part)  # each row's first round comes before any row's second
        decoding.close()  # type: ignore[attr-defined]


def chi_square(places: Sequence[Place], rounds: Sequence[Round]) -> tuple[float, int]:
    """p-value and cells of the first tokens of the rounds against the places' own distributions."""
    seen, expected = torch.zeros(CELLS), torch.zeros(CELLS, dtype=torch.double)
    for place, item in zip(places, rounds, strict=True):
        proposed = item.tokens[0].token_id
        rest = place.p.double().clone()
        rest[proposed] = 0
        order = rest.argsort(descending=True)
        share = (rest[order].cumsum(0) - rest[order]) / rest.sum()
        cell = torch.zeros(len(rest), dtype=torch.long)
        cell[order] = 1 + (share * (CELLS - 1)).long().clamp_max(CELLS - 2)
        cell[proposed] = 0
        seen[cell[item.emitted[0]]] += 1
        expected.index_add_(0, cell, place.p.double() / place.p.double().sum())
    counts, wanted = pool_rare(seen.double(), expected)
    return float(stats.chisquare(counts.numpy(), (wanted * counts.sum() / wanted.sum()).numpy()).pvalue), len(counts)


def whole_answers(target: object, draft: object, capture: Capture, settings: DecodeSettings, most: int) -> list[Round]:
    """The prompts decoded with argmax proposals, until there are `most` rounds."""
    rounds: list[Round] = []
    for start in range(0, len(capture.answers), AT_ONCE):
        part = capture.answers[start : start + AT_ONCE]
        names = [f"whole {answer.prompt_id}" for answer in part]
        new = speculative_decode(target, draft, [answer.prompt_ids for answer in part], settings, names=names)
        rounds += [replace(item, row=item.row + start) for item in new]
        if len(rounds) >= most:
            break
    return rounds


def measure(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """All figures, and which of the goals hold."""
    target = load_model(ModelSpec(model=DEFAULT_TARGET), dtype=args.dtype)
    draft = load_draft(Path(args.draft), target).model
    prompts = read_prompts([PromptSource(path=args.prompt_file, limit=args.prompts)]).prompts
    spec = CaptureSpec(temperature=1.0, max_new_tokens=args.tokens, seed=args.seed)
    capture = make_capture(plan_capture(folder, target, prompts, spec), target, batch_size=AT_ONCE)
    head = Head.of(target.model)
    results = exact_acceptance(draft, head, capture, DRAWN)
    argmax = bootstrap_ratio([float(r.argmax_prob.sum()) for r in results], [len(r.token_ids) for r in results])

    places = places_of(capture, results, head, args.rounds, args.seed)
    rounds = list(first_rounds(target.model, draft, places, args.seed + 1))
    kept = [item.tokens[0].fate is Fate.ACCEPTED for item in rounds]
    z = calibration_z(kept, [min(1.0, place.argmax_prob) for place in places])
    p_value, cells = chi_square(places, rounds)
    with mock.patch("engine.decode.acceptance_rule.residual", lambda target_probs, draft_probs: target_probs):
        some = places[:: max(1, len(places) // BROKEN)]
        wrong = list(first_rounds(target.model, draft, some, args.seed + 1))
    came_out = [item.emitted[0] == item.tokens[0].token_id for item in wrong]  # kept, or drawn again after its refusal
    broken = calibration_z(came_out, [min(1.0, place.argmax_prob) for place in some])
    share = float(np.mean(kept))
    stray = 1.96 * float(np.sqrt(share * (1 - share) / len(kept)))  # of so many rounds about their own rate

    settings = DecodeSettings(DRAWN, FixedLength(GAMMA), args.tokens, target.stop_ids, args.seed + 2, "argmax")
    decoded = whole_answers(target.model, draft, capture, settings, args.rounds)
    counts = count(decoded)
    asked = {capture.answers[row].prompt_id for row in {item.row for item in decoded}}
    text = predicted_rounds([r for r in results if r.prompt_id in asked], GAMMA, "argmax", limit=args.tokens)
    predicted = for_other_texts(predicted_rates(text.values()).per_proposed)
    per_proposed = counts.accepted / counts.drafted
    return {
        "argmax": asdict(argmax),
        "at_places": {"rounds": len(rounds), "accepted": share, "plus_minus": stray, **z.as_dict()},
        "chi_square": {
            "p_value": p_value,
            "cells": cells,
            "if_broken": {"z": broken.z, "p_value": chi_square(some, wrong)[0]},
        },
        "whole": {"rounds": counts.rounds, "per_proposed": per_proposed, "predicted": asdict(predicted)},
        "holds": {
            "as many accepted as the exact pass says of the places": abs(z.z) < ALARM_Z,
            "argmax of the whole text": argmax.low - stray <= share <= argmax.high + stray,
            "chi-square": p_value > LEAST_P_VALUE,
            "a broken residual is seen": broken.z > ALARM_Z,
            "accepted over proposed as predicted": predicted.low <= per_proposed <= predicted.high,
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000, help="rounds each way")
    parser.add_argument("--prompts", type=int, default=60, help="held-out prompts")
    parser.add_argument("--tokens", type=int, default=64, help="length limit of an answer")
    parser.add_argument("--draft", default="sample_data/drafts/generic", help="folder of the draft")
    parser.add_argument("--prompt-file", default="sample_data/prompts/biology/heldout.jsonl")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    args = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        figures = measure(args, Path(folder))
    holds = figures["holds"]
    assert isinstance(holds, dict)
    if args.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            print(f"{name}: {value}")
        print("all hold" if all(holds.values()) else "NOT AS IT MUST BE")
    return 0 if all(holds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
