"""The models and prompts that are timed: pairs that come with Draftbench, or random weights of a given shape.

Time depends on shapes, acceptance on weights. Where the embedded model cannot be had, random weights of its shape give
every figure but those that need a draft which is right about something; these are left out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.chat.rendering import render
from engine.config.schema import DraftSpec, ModelSpec, PromptSource
from engine.data.readers import read_prompts
from engine.export.whole_vocabulary import with_whole_vocabulary
from engine.models.assets import is_whole
from engine.models.draft import Draft, DraftInfo, initialise_draft, load_draft, trim
from engine.models.head import Head, hidden_states
from engine.models.load import LoadedModel
from engine.runs.advice import best_draft
from engine.runs.folder import RunFolder
from engine.runs.samples import sample_folders
from engine.runs.session import load_target

DOMAINS = ("function_calling", "biology", "chinese")
MOST_PROMPT_TOKENS = 384  # a longer prompt would make a round mostly prefill
_PARTS = ("heldout", "synthetic", "train")
_STATES = 4096  # hidden states that a row for ids which the draft has not is fitted to


@dataclass(frozen=True)
class Subject:
    """A target with a draft and prompts of its domain.

    `gamma`: the draft's own. `library_target`, `library_draft`: both as plain Transformers has them, without anything
    that the engine made of their layers when it loaded them, the draft with all of the target's ids. `weights`:
    'embedded' or 'random'.
    """

    name: str
    target: LoadedModel
    draft: Draft
    library_target: Any
    library_draft: Any
    gamma: int
    prompts: list[list[int]]
    stop_ids: frozenset[int]
    weights: str

    def first(self, prompts: int) -> Subject:
        """The same with its first prompts alone."""
        return replace(self, prompts=self.prompts[:prompts])

    @property
    def conditions(self) -> dict[str, Any]:
        """What a row must say about it."""
        model = self.target.model
        return {
            "pair": self.name,
            "weights": self.weights,
            "dtype": self.target.dtype_name,
            "device": str(self.target.device),
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in model.parameters()),
        }


@dataclass(frozen=True)
class RandomModel(LoadedModel):
    """A model that never was on disk and has no tokenizer; any of `stops` ends its answers."""

    stops: frozenset[int] = frozenset()

    @property
    def stop_ids(self) -> frozenset[int]:
        return self.stops


@dataclass(frozen=True)
class Shape:
    """The size of a Llama."""

    name: str
    vocab: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    trimmed: int  # ids of its draft

    @property
    def weight_bytes(self) -> int:
        """Bytes of bfloat16 weights that a step for one token reads: all but the embedding it looks a row up in."""
        size = self.width // self.heads
        attention = self.width * size * (2 * self.heads + 2 * self.kv_heads)
        return 2 * (self.layers * (attention + 3 * self.width * self.inner) + self.vocab * self.width)


SMOLLM2 = Shape("SmolLM2-135M shape", 49152, 576, 1536, 30, 9, 3, tied=True, trimmed=8192)
LLAMA_8B = Shape("Llama 8B shape", 128256, 4096, 14336, 32, 32, 8, tied=False, trimmed=8192)
LLAMA_1B = Shape("Llama 1B shape", 128256, 2048, 8192, 16, 32, 8, tied=True, trimmed=8192)  # as Llama 3.2 has it
TINY = Shape("tiny shape", 512, 64, 128, 4, 4, 2, tied=True, trimmed=128)


def has_embedded_model() -> bool:
    """Whether the embedded model is in the asset cache, so that no network is needed."""
    return is_whole("smollm2-135m-instruct")


def embedded(domain: str, *, prompts: int, device: str = "auto", quantize: str | None = None) -> Subject:
    """The domain's target with the draft that was trained to be served with it, and prompts of the domain."""
    run = _served_run(domain)
    recipe = run.recipe()
    rounding = {} if quantize is None else {"quantize": quantize}  # a key that other checkouts may not know
    spec = recipe.target.model_copy(update={"device": device, **rounding})
    target = load_target(recipe.model_copy(update={"target": spec}))
    draft = load_draft(best_draft(run), target)
    rendered = _texts(domain, target, 4 * prompts)
    kept = [ids for ids in rendered if len(ids) <= MOST_PROMPT_TOKENS][:prompts]
    gamma, plain = recipe.measure.num_draft_tokens, _as_the_library_has_it(target.model)
    whole = _whole(draft, target, rendered)
    return Subject(domain, target, draft, plain, whole, gamma, _longest_first(kept), target.stop_ids, "embedded")


def random_subject(
    shape: Shape,
    device: torch.device,
    *,
    prompts: int,
    prompt_tokens: int = 96,
    assisted: bool = True,
    draft_shape: Shape | None = None,
) -> Subject:
    """Random weights and prompts of a shape. A draft of two layers with a trimmed vocabulary, accepted by chance.

    `assisted`: also the same draft with all ids. `draft_shape`: a draft of this shape instead, with all ids.
    """
    target, ends = random_target(shape, device), DraftSpec(layers=[0, shape.layers - 1])
    texts = _longest_first(random_prompts(shape, prompts, prompt_tokens))
    if draft_shape is not None:
        other = random_target(draft_shape, device).model
        own = Draft(other, DraftInfo(draft_shape.name, False, "random", []))
        return Subject(shape.name, target, own, target.model, None, 3, texts, target.stop_ids, "random")
    draft = trim(initialise_draft(target, ends, seed=0), target, torch.arange(shape.trimmed))
    draft.model.to(target.dtype).requires_grad_(False)
    whole = initialise_draft(target, ends, seed=0).model.to(target.dtype) if assisted else None
    return Subject(shape.name, target, draft, target.model, whole, 2, texts, target.stop_ids, "random")


def random_target(shape: Shape, device: torch.device) -> LoadedModel:
    """A Llama of this shape with random weights in bfloat16, whose drawn answers end after some 40 tokens."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=shape.tied,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device):
        torch.manual_seed(0)
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=1, pad_token_id=1)
    stops = frozenset(range(1, shape.vocab, 40))
    return RandomModel(model, None, ModelSpec(model=shape.name), shape.name, stops=stops)


def random_prompts(shape: Shape, count: int, longest: int) -> list[list[int]]:
    """Prompts of random ids, of lengths from a third of the longest up."""
    generator = torch.Generator().manual_seed(1)
    lengths = [longest - (number * 7) % max(1, 2 * longest // 3) for number in range(count)]
    return [torch.randint(2, shape.vocab, (length,), generator=generator).tolist() for length in lengths]


def _served_run(domain: str) -> RunFolder:
    name = f"serve-{domain.replace('_', '-')}-"
    return RunFolder(next(folder for folder in sample_folders() if folder.name.startswith(name)))


def _texts(domain: str, target: LoadedModel, count: int) -> list[list[int]]:
    """Rendered prompts of a domain, all different: the held-out ones first."""
    sources = [PromptSource(path=f"sample_data/prompts/{domain}/{part}.jsonl") for part in _PARTS]
    prompts = read_prompts(sources).prompts[:count]
    return [render(target.tokenizer, p, context_tokens=target.context_tokens, max_new_tokens=64) for p in prompts]


@torch.no_grad()
def _whole(draft: Draft, target: LoadedModel, texts: list[list[int]]) -> Any:
    """The draft with all of the target's ids, as an export has it."""
    if Head.of(draft.model).ids is None:
        return _as_the_library_has_it(draft.model)
    states: list[torch.Tensor] = []
    for ids in texts:
        states.append(hidden_states(draft.model, torch.tensor([ids], device=target.device), is_draft=True)[0])
        if sum(map(len, states)) >= _STATES:
            break
    return with_whole_vocabulary(draft, torch.cat(states), target.vocab_rows)


def _as_the_library_has_it(model: Any) -> Any:
    """A copy of a model on a processor, whose layers compute as Transformers has them; elsewhere nothing is changed."""
    return copy.deepcopy(model) if model.device.type == "cpu" else model


def _longest_first(prompts: list[list[int]]) -> list[list[int]]:
    """The longest prompt in front: warmed up with it, a static cache has room for all others."""
    longest = max(range(len(prompts)), key=lambda place: len(prompts[place]))
    return [prompts[longest], *prompts[:longest], *prompts[longest + 1 :]]
