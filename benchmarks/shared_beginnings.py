"""How many tokens of the sample prompts a capture reads on a CPU, where those that prompts share are read once.

    python benchmarks/shared_beginnings.py

No model is run. A family is a set of prompts that begin alike; `alone` are prompts that share too little. The last two
columns are the tokens, with padding, that 64 prompts at a time cost if all are read together, and in the groups that
cost least.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.capture.generate import PASS_TOKENS
from engine.capture.grouping import Family, families, read_together
from engine.chat.rendering import render
from engine.config.schema import DEFAULT_TARGET, ModelSpec, PromptSource
from engine.data.readers import read_prompts
from engine.models.load import load_tokenizer

BATCH = 64
DOMAINS = ("function_calling", "general", "chinese", "biology")


def padded(group: Sequence[Family], prompts: Sequence[Sequence[int]]) -> int:
    """Tokens of the passes in which families are read together."""
    rests = [len(prompts[i]) - family.shared for family in group for i in family.indices]
    return len(group) * max(family.shared for family in group) + len(rests) * max(rests)


def padded_in_batches(prompts: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Tokens with padding, a batch of prompts read together, and in groups."""
    together = apart = 0
    for start in range(0, len(prompts), BATCH):
        some = families(prompts, range(start, min(start + BATCH, len(prompts))), PASS_TOKENS)
        together += padded(some, prompts)
        apart += sum(padded(group, prompts) for group in read_together(some, prompts, PASS_TOKENS))
    return together, apart


def row(domain: str) -> str:
    """A line of the table on one domain's training prompts, as its target is given them."""
    adapter = None if domain == "general" else f"sample_data/targets/{domain}"
    tokenizer = load_tokenizer(ModelSpec(model=DEFAULT_TARGET, adapter=adapter))
    prompts = [
        render(tokenizer, prompt, context_tokens=None, max_new_tokens=1)
        for prompt in read_prompts([PromptSource(path=f"sample_data/prompts/{domain}/train.jsonl")]).prompts
    ]
    found = families(prompts, range(len(prompts)), PASS_TOKENS)
    whole = sum(map(len, prompts))
    read = sum(len(prompts[i]) - family.shared for family in found for i in family.indices)
    read += sum(family.shared for family in found)
    shared = [family for family in found if family.shared]
    together, apart = padded_in_batches(prompts)
    return (
        f"{domain:<18}{len(prompts):>8}{whole:>9,}{read:>9,}{read / whole:>8.0%}"
        f"{len(shared):>10}{len(found) - len(shared):>8}"
        f"{together:>10,}{apart:>10,}"
    )


if __name__ == "__main__":
    print(
        f"{'':<18}{'prompts':>8}{'tokens':>9}{'read':>9}{'':>8}{'families':>10}{'alone':>8}{'together':>10}{'groups':>10}"
    )
    for domain in DOMAINS:
        print(row(domain), flush=True)
