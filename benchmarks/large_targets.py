"""A target that lies whole, spread and split: the same answers, and what each way costs.

    python benchmarks/large_targets.py --model hub:ORG/NAME          # on a machine with two cards and more
    python benchmarks/large_targets.py --device cpu --max-memory-gb 0.15     # half a minute, the embedded model

Answers a few prompts greedily with each way that this machine has and prints, for each: where the layers lie, the
largest difference of logits from the first way in standard deviations, how many answers are the same, and seconds a
token. On several cards a draft is also decoded on a card of its own. With `--quantised FOLDER ...` each is loaded
as its library reads it, and its layers are compared with those of its float32 twin.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from engine.config.defaults import DEFAULT_TARGET
from engine.config.schema import DraftSpec, ModelSpec
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import plain_decode, speculative_decode
from engine.measure.certificate import texts as decoded
from engine.models.draft import initialise_draft
from engine.models.head import check_head, hidden_states
from engine.models.load import LoadedModel, load_model, with_drafts_on

PROMPTS = ("Why do leaves turn red in autumn?", "Name three rivers of Africa.", "What is 17 times 23?")


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_TARGET)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--max-memory-gb", type=float, help="for weights on the first device, so that others are used")
    parser.add_argument("--parts", type=int, default=max(2, torch.cuda.device_count()), help="of tensor parallelism")
    parser.add_argument("--quantised", nargs="*", default=[], metavar="FOLDER")
    given = parser.parse_args()
    base = {"model": given.model, "device": given.device, "dtype": given.dtype}
    first: LoadedModel | None = None
    for name, more in ways(given):
        try:
            target = load_model(ModelSpec.model_validate({**base, **more}))
        except Exception as error:
            print(f"{name}: {error}")
            continue
        first = target if first is None else first
        report(name, target, first, given.tokens)
    for folder in given.quantised:
        spec = ModelSpec(model=folder, device=given.device)
        target, twin = load_model(spec), load_model(spec, dtype="float32")
        report(f"{folder} ({target.weights or 'unpacked'}, {target.dtype_name})", target, twin, given.tokens)


def ways(given: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """The ways to hold a target, with their settings; the whole one comes first."""
    yield "whole", {}
    name = "cpu" if given.device == "cpu" or not torch.cuda.is_available() else "0"
    limits = {} if given.max_memory_gb is None else {"max_memory_gb": {name: given.max_memory_gb, "cpu": 1000.0}}
    if name == "cpu" and given.max_memory_gb is not None:
        limits = {"max_memory_gb": {"cpu": given.max_memory_gb}}
    yield "device_map", {"device_map": "auto", **limits}
    yield "tensor_parallel", {"tensor_parallel": given.parts}


@torch.no_grad()
def report(name: str, target: LoadedModel, first: LoadedModel, tokens: int) -> None:
    """Compare a target with the first one on a few prompts, and a draft of its own layers with plain decoding."""
    check_head(target.model)
    prompts = [target.tokenizer(text)["input_ids"] for text in PROMPTS]
    settings = DecodeSettings(Sampling(0.0), FixedLength(3), tokens, target.stop_ids, 0)
    logits = [
        of.model.get_output_embeddings()(hidden_states(of.model, torch.tensor([prompts[0]], device=of.device)))
        .float()
        .cpu()
        for of in (target, first)
    ]
    apart = float((logits[0] - logits[1]).square().mean().sqrt() / logits[1].std())
    began = time.perf_counter()
    texts = decoded(plain_decode(target.model, prompts, settings), len(prompts))
    seconds = (time.perf_counter() - began) / max(map(len, texts))
    expected = texts if target is first else decoded(plain_decode(first.model, prompts, settings), len(prompts))
    same = sum(a == b for a, b in zip(texts, expected, strict=True))
    print(f"{name}: {target.placed or f'whole on {target.device}'}")
    print(f"  logits differ by {apart:.1e} standard deviations; {same} of {len(texts)} answers are the same")
    print(f"  {seconds:.3f} s a step of {len(texts)} rows")
    last = f"cuda:{torch.cuda.device_count() - 1}" if target.device.type == "cuda" else "auto"
    draft = initialise_draft(with_drafts_on(target, last), DraftSpec(layers=2), seed=0).model
    spoken = decoded(speculative_decode(target.model, draft.to(target.dtype), prompts, settings), len(prompts))
    same = sum(a == b for a, b in zip(texts, spoken, strict=True))
    print(f"  with a draft on {draft.device}: {same} of {len(texts)} answers are those of plain decoding", flush=True)


if __name__ == "__main__":
    main()
