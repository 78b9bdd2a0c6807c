"""Does speculative decoding write exactly the target's text? Checks on real text, and one that must fail.

    python benchmarks/losslessness.py                 # greedy identity with an untrained four-layer draft
    python benchmarks/losslessness.py --run RUN       # with the best draft of a run (and its target)

In float32: the target as its own draft is never refused, at temperatures 0, 0.7 and 1, with and without top-k and
top-p; greedy text equals plain greedy text on 50 held-out prompts; 200,000 emitted tokens of a tiny pair follow the
target's exact distribution (chi-square, p > .0001). The same chi-square must fail when the residual rule is broken on
purpose (a refused token is replaced from p instead of from what p has over q); otherwise the test could not see such a
fault. Takes about 10 minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.chat.rendering import render
from engine.config.schema import DEFAULT_TARGET, DraftSpec, ModelSpec, PromptSource
from engine.data.readers import read_prompts
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.measure.certificate import chi_square, greedy_identity, self_draft
from engine.models.draft import Draft, initialise_draft, load_draft
from engine.models.load import LoadedModel, load_model
from engine.paths import home
from engine.records.certificate import Check
from engine.runs.folder import RunFolder

HELDOUT = "sample_data/prompts/biology/heldout.jsonl"


def the_pair(run_id: str | None) -> tuple[LoadedModel, Draft]:
    """Target and draft in float32: those of the run, or the default target and four layers of it."""
    if run_id is None:
        target = load_model(ModelSpec(model=DEFAULT_TARGET), dtype="float32")
        return target, initialise_draft(target, DraftSpec(layers=4), seed=0)
    run = RunFolder.open(home(), run_id)
    target = load_model(run.recipe().target, dtype="float32")
    return target, load_draft(run.path / "draft" / "best", target)


def rendered(target: LoadedModel, file: str, count: int, max_new_tokens: int) -> list[list[int]]:
    """Ids of the first prompts of a file."""
    prompts = read_prompts([PromptSource(path=file, limit=count)]).prompts
    return [
        render(target.tokenizer, prompt, context_tokens=target.context_tokens, max_new_tokens=max_new_tokens)
        for prompt in prompts
    ]


def broken_chi_square(tokens: int) -> Check:
    """The chi-square of an engine that draws the corrected token from p itself."""
    with mock.patch("engine.decode.acceptance_rule.residual", lambda target_probs, draft_probs: target_probs):
        return chi_square(tokens=tokens)


def checks(args: argparse.Namespace) -> dict[str, tuple[Check, bool]]:
    """Every check and whether it went as it must; tells of each as it ends."""
    target, draft = the_pair(args.run)

    def settings(max_new_tokens: int) -> DecodeSettings:
        return DecodeSettings(Sampling(0.0), FixedLength(args.gamma), max_new_tokens, target.stop_ids)

    few = rendered(target, args.prompts, args.self_prompts, args.self_tokens)
    many = rendered(target, args.prompts, args.greedy_prompts, args.greedy_tokens)
    steps: dict[str, Callable[[], Check]] = {
        "self-draft": lambda: self_draft(target.model, few, settings(args.self_tokens)),
        "greedy identity": lambda: greedy_identity(target.model, draft.model, many, settings(args.greedy_tokens)),
        "chi-square": lambda: chi_square(tokens=args.tokens),
        "chi-square, residual broken": lambda: broken_chi_square(args.tokens),
    }
    results = {}
    for name, step in steps.items():
        began = time.monotonic()
        check = step()
        must_fail = name.endswith("broken")
        results[name] = check, check.passed is not must_fail
        seconds = time.monotonic() - began
        expected = "fails, as it must" if must_fail else "passes"
        verdict = expected if results[name][1] else "NOT AS IT MUST BE"
        print(f"{name}: {verdict}: {check.detail} [{seconds:.0f} s]", file=sys.stderr if args.json else sys.stdout)
    return results


def main(arguments: list[str] | None = None) -> int:
    """Run all checks; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="run whose best draft decodes; else an untrained four-layer draft")
    parser.add_argument("--prompts", default=HELDOUT, help="held-out prompt file")
    parser.add_argument("--gamma", type=int, default=4, help="tokens proposed a round")
    parser.add_argument("--self-prompts", type=int, default=8, help="prompts at each of the 12 sampling settings")
    parser.add_argument("--self-tokens", type=int, default=48, help="tokens of each of their answers")
    parser.add_argument("--greedy-prompts", type=int, default=50, help="prompts of the greedy identity")
    parser.add_argument("--greedy-tokens", type=int, default=48, help="tokens of each of their answers")
    parser.add_argument("--tokens", type=int, default=201_000, help="emitted tokens of each chi-square, at least")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    args = parser.parse_args(arguments)
    results = checks(args)
    passed = all(as_it_must for _, as_it_must in results.values())
    if args.json:
        shown = {name: {"as_it_must": ok, **check.document()} for name, (check, ok) in results.items()}
        print(json.dumps({"passed": passed, "checks": shown}, indent=2))
    else:
        whole, broken = (check.figures for check, _ in results.values() if "p_value" in check.figures)
        print(
            f"{sum(ok for _, ok in results.values())} of {len(results)} checks as they must be: chi-square over "
            f"{whole['cells']} cells {whole['statistic']:.0f} (p = {whole['p_value']:.3f}), "
            f"with the residual rule broken {broken['statistic']:,.0f} (p = {broken['p_value']:.0e})"
        )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
