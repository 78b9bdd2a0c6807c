"""Which architectures can be a target, and does a draft made of some of their layers compute what those layers compute?

    python benchmarks/architectures.py [NAME ...]

Tries a tiny random model of every causal family in Transformers, of families that mix several kinds of layers, and of
models with vision. Each model is saved, checked before the start (from shapes alone), loaded and checked as in a run;
both checks must agree. Then drafts are made of its first and last layer, of three layers and of all layers. Each draft
must compute, in float32, what the target computes if its other layers pass on their input, and the same again after it
was saved and loaded. Whatever is not possible must be refused with an explanation.

Prints one line per model, then counts. Exits with status 1 if anything was wrong or ended in a traceback. Takes three
minutes.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.update(
    HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", TRANSFORMERS_VERBOSITY="error"
)
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from engine.config.reading import parse_recipe
from engine.config.schema import DraftSpec, ModelSpec
from engine.decode.runner import runner_for
from engine.errors import DraftbenchError, first_line
from engine.models.draft import initialise_draft, load_draft, save_draft
from engine.models.head import check_head, text_config
from engine.models.load import LoadedModel, load_model
from engine.models.shallow import left_out
from engine.models.split import logits_without
from engine.paths import Home
from engine.planning.checks import checks
from tests.conftest import byte_tokenizer
from tests.tiny_families import LAYERS, MIXED, SEEING, random_model, small_config

LARGEST = 20_000_000  # parameters of a model that counts as tiny
CLOSE = 1e-4  # of the largest logit: float32, a few layers
IDS = torch.tensor([[0, 5, 7, 90, 33, 12, 250, 2, 4, 77, 78]])


@dataclass(frozen=True)
class Outcome:
    """`state`: works, refused, wrong, traceback or not made; `message` explains all but the first."""

    state: str
    message: str = ""


def attempt(work: Any) -> Outcome:
    """What came of `work`, which returns '' or what is wrong."""
    try:
        wrong = work()
    except DraftbenchError as error:
        return Outcome("refused", f"{error.what}: {error.why}")
    except Exception as error:
        return Outcome("traceback", f"{type(error).__name__}: {first_line(error)}")
    return Outcome("wrong", wrong) if wrong else Outcome("works")


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits.float()


def save(folder: Path, kind: str, settings: dict[str, Any]) -> str:
    """Write the tiny model; returns why there is none, or ''."""
    try:
        config = small_config(kind, **settings)
        with torch.device("meta"):
            from transformers import AutoModelForCausalLM

            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if size > LARGEST:
            return f"its smallest has {size:,} parameters"
        random_model(config).save_pretrained(folder)
    except Exception as error:
        if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "Unrecognized configuration" in str(error):
            config.save_pretrained(folder)  # no causal model: the check and the run must say so
        else:
            return f"{type(error).__name__}: {first_line(error)}"
    byte_tokenizer().save_pretrained(folder)
    return ""


def checked_before(folder: Path, home: Home) -> Outcome:
    """What the checks before a start say of the target."""
    recipe = parse_recipe(
        {
            "name": "x",
            "target": {"model": str(folder), "dtype": "float32", "device": "cpu"},
            "draft": {"layers": 1},
            "prompts": {"train": "x.jsonl", "heldout": "y.jsonl"},
        }
    )
    target = next(check for check in checks(home, recipe) if check.name == "target")
    return Outcome("works" if target.ok else "refused", target.message)


def loaded_as_a_run(folder: Path) -> LoadedModel:
    return load_model(ModelSpec(model=str(folder), dtype="float32", device="cpu"))


def usable(target: LoadedModel) -> str:
    check_head(target.model)
    runner_for(target.model)
    return ""


def drafted(target: LoadedModel, wanted: int | list[int], folder: Path) -> str:
    """Make a draft of those layers, and compare it with the target and with itself after saving."""
    draft = initialise_draft(target, DraftSpec(layers=wanted), seed=0)
    save_draft(folder, draft)
    again = load_draft(folder, target)
    layers = draft.info.layers
    if len(layers) == text_config(target.model).num_hidden_layers:
        expected = logits(target.model)
    else:
        expected = logits_without(target.model, left_out(target.model, draft.model, layers), IDS).float()
    for name, model in (("draft", draft.model), ("draft loaded again", again.model)):
        gap = float((logits(model) - expected).abs().max() / expected.abs().max())
        if not gap < CLOSE:
            return f"the {name} of layers {layers} differs by {gap:.2g} of the largest logit"
    return ""


def try_model(kind: str, settings: dict[str, Any], folder: Path) -> dict[str, Outcome]:
    """Every outcome of one model by what was tried."""
    missing = save(folder / "model", kind, settings)
    if missing:
        return {"made": Outcome("not made", missing)}
    before = checked_before(folder / "model", Home(folder / "home"))
    held: list[LoadedModel] = []
    run = attempt(lambda: held.append(loaded_as_a_run(folder / "model")) or usable(held[0]))
    outcomes = {"check": before, "run": run}
    if before.state != run.state and run.state in ("works", "refused"):
        outcomes["check"] = Outcome(
            "wrong", f"the check says {before.state} ({before.message}), the run {run.state} ({run.message})"
        )
    if held:
        depth = getattr(text_config(held[0].model), "num_hidden_layers", LAYERS)
        for name, wanted in (("ends", [0, depth - 1]), ("three", min(3, depth)), ("all", depth)):
            outcomes[name] = attempt(lambda wanted=wanted, name=name: drafted(held[0], wanted, folder / name))
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="model types or names printed here; all if left out")
    parser.add_argument("--why", action="store_true", help="print why a model was refused")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    plain = {kind: (kind, {}) for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)}
    models = {**plain, **MIXED, **SEEING}
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    print(f"{'model':34} check    run      [0, last] three    all")
    for name in asked.names or models:
        with tempfile.TemporaryDirectory(prefix="architectures-") as folder:
            outcomes = try_model(*models[name], Path(folder))
        for what, outcome in outcomes.items():
            counts[what][outcome.state] += 1
        print(f"{name:34} " + " ".join(f"{outcome.state:9}" for outcome in outcomes.values()), flush=True)
        for what, outcome in outcomes.items():
            if outcome.state in ("wrong", "traceback", "not made") or (asked.why and outcome.state == "refused"):
                print(f"    {what}: {outcome.message[:400]}")
    for what, tally in counts.items():
        print(f"{what}: " + ", ".join(f"{count} {state}" for state, count in sorted(tally.items())))
    return int(any(tally["wrong"] + tally["traceback"] for tally in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
