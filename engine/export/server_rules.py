"""What each server asks of a target and its draft, one function per server.

The reasons are the servers' own words where they have some: read in vLLM 0.32.0, llama.cpp build 10434, Transformers
5.23 and the documentation of SGLang and TensorRT-LLM 1.3 (November 2026).
"""

from __future__ import annotations

from collections.abc import Callable

from engine.export.facts import Asked, Pair
from engine.export.finding import Finding, Findings
from engine.export.tensor_parallel import cannot_share

MOST_ROWS_APART, _FIRST_COMPARED = 128, 5  # common/speculative.cpp of llama.cpp
# Of the table of models in TensorRT-LLM's documentation (1.3.0rc24), those that a draft can be a smaller copy of.
_TENSORRT = (
    "AfmoeForCausalLM",
    "Cohere2ForCausalLM",
    "DeciLMForCausalLM",
    "DeepseekV3ForCausalLM",
    "DeepseekV32ForCausalLM",
    "ExaoneForCausalLM",
    "Exaone4ForCausalLM",
    "ExaoneMoEForCausalLM",
    "Gemma3ForCausalLM",
    "Glm4MoeForCausalLM",
    "Glm4MoeLiteForCausalLM",
    "GptOssForCausalLM",
    "GraniteForCausalLM",
    "LlamaForCausalLM",
    "MiniMaxM2ForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "NemotronForCausalLM",
    "NemotronHForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
)


def first_difference(pair: Pair, start: int = 0) -> int | None:
    """The first id from `start` on that has another text in the draft; None if those that both have agree."""
    both = min(len(pair.target.tokens), len(pair.draft.tokens))
    return next((i for i in range(start, both) if pair.target.tokens[i] != pair.draft.tokens[i]), None)


def _texts(pair: Pair, i: int) -> str:
    return f"id {i} is {pair.target.tokens[i]!r} in the target and {pair.draft.tokens[i]!r} in the draft"


_SAME_FAMILY = "serve the target that the draft was trained for, or train a draft for this one"


# ---- one after the other ---------------------------------------------------------------------


def _vllm(pair: Pair, asked: Asked) -> Findings:
    target, draft = pair.target, pair.draft
    if target.rows != draft.rows:
        yield Finding(
            "refused",
            f"the target has {target.rows:,} rows and the draft {draft.rows:,}",
            "Target and draft model should have the same vocabulary size. Target model "
            f"vocab_size={target.rows}. Draft model vocab_size={draft.rows}.",
            f'{_SAME_FAMILY}, or, with argmax proposals alone, add "use_heterogeneous_vocab": true to '
            "--speculative-config",
        )
    elif (i := first_difference(pair)) is not None:
        yield Finding(
            "refused",
            f"the sizes agree and the texts do not: {_texts(pair, i)}",
            "vLLM compares sizes alone and would verify ids that mean something else; next to nothing would be "
            "accepted",
            _SAME_FAMILY,
        )
    yield from cannot_share("vllm", pair, asked)
    yield from _shorter(pair, asked, "past it vLLM proposes nothing")


def _sglang(pair: Pair, asked: Asked) -> Findings:
    target, draft = pair.target, pair.draft
    different = first_difference(pair)
    if len(target.tokens) != len(draft.tokens) or different is not None:
        yield Finding(
            "refused",
            "the vocabularies differ: "
            + (
                _texts(pair, different)
                if different is not None
                else f"{len(target.tokens):,} and {len(draft.tokens):,} ids"
            ),
            "STANDALONE needs identical vocabularies (get_vocab() of both tokenizers)",
            _SAME_FAMILY,
        )
    if target.rows != draft.rows:
        yield Finding(
            "refused",
            f"the target has {target.rows:,} rows and the draft {draft.rows:,}",
            "the rejection sampler compares probabilities row by row, and the two have different shapes",
            _SAME_FAMILY,
        )
    if asked.target == "apart":
        yield Finding(
            "refused",
            "the adapter would be loaded beside the target",
            "LoRA is only compatible with NGRAM, EAGLE, NEXTN, EAGLE3, DFLASH, or DSPARK speculative decoding, not "
            "STANDALONE.",
            "give --target merged",
        )
    yield from cannot_share("sglang", pair, asked)
    longest = asked.context_tokens or target.context_tokens
    if longest and draft.context_tokens and longest > draft.context_tokens:
        yield Finding(
            "warning",
            f"the draft supports {draft.context_tokens:,} tokens, {longest:,} are asked for",
            f"Target model's context_length ({longest}) is greater than the derived context_length "
            f"({draft.context_tokens}). This may lead to incorrect model outputs or CUDA errors.",
            f"give --context {draft.context_tokens}"
            if asked.context_tokens
            else f"the command limits the context to {draft.context_tokens}",
        )


def _llama_cpp(pair: Pair, asked: Asked) -> Findings:
    target, draft = pair.target, pair.draft
    yield from _llama_vocabulary(pair)
    for role, model in (("target", target), ("draft", draft)):
        if model.no_gguf and (role == "draft" or asked.target != "none"):
            yield Finding(
                "refused",
                f"the {role} cannot be written as GGUF",
                model.no_gguf,
                "export for transformers and convert that folder with llama.cpp's convert_hf_to_gguf.py",
            )
    if not draft.merges:
        yield Finding(
            "refused",
            "the tokenizer has no merges",
            "cannot find tokenizer merges in model file",
            "llama.cpp cannot read this tokenizer; serve the pair with another server",
        )
    if asked.target == "apart":
        yield Finding(
            "refused",
            "the adapter would stay beside the target",
            "llama-server reads adapters (--lora) in GGUF alone, and Draftbench writes models",
            "give --target merged, or convert the adapter with llama.cpp's convert_lora_to_gguf.py",
        )
    if asked.target == "merged" and target.quantised:
        yield Finding(
            "refused",
            f"the target's weights are quantised ({target.quantised})",
            "rounded weights of another scheme have no exact place in a GGUF file",
            "use the published GGUF of the target, or the original model",
        )
    if asked.gguf == "q4_k_m" and not asked.quantiser:
        yield Finding(
            "refused",
            "nothing here makes q4_k_m",
            "the package gguf has no quantiser for K-quants (NotImplementedError: Quantization for Q4_K is not yet "
            "implemented), and llama.cpp's llama-quantize is not on the path",
            "install llama.cpp so that llama-quantize is on the path, or give --gguf q8_0",
        )
    if asked.tensor_parallel > 1:
        yield Finding(
            "refused",
            "llama.cpp has no --tensor-parallel",
            "llama-server splits a model with --split-mode and --tensor-split",
            "leave --tensor-parallel out and add those flags to the command",
        )
    yield from _shorter(pair, asked, "llama.cpp warns of a possible training context overflow")


def _llama_vocabulary(pair: Pair) -> Findings:
    """`common_speculative_are_compatible`, in its order; the first difference stops it."""
    target, draft = pair.target, pair.draft
    apart = abs(target.rows - draft.rows)
    different = first_difference(pair, _FIRST_COMPARED)
    reason = what = ""
    if target.tokenizer != draft.tokenizer:
        what = f"the target's tokenizer is {target.tokenizer}, the draft's {draft.tokenizer}"
        reason = "draft model vocab type must match target model to use speculation"
    elif target.adds_bos != draft.adds_bos or (target.adds_bos and target.bos != draft.bos):
        what = "the two begin a text differently"
        reason = (
            "draft model bos tokens must match target model to use speculation. "
            f"add: {target.adds_bos:d} - {draft.adds_bos:d}, id: {_id(target.bos)} - {_id(draft.bos)})"
        )
    elif target.adds_eos != draft.adds_eos or (target.adds_eos and target.eos != draft.eos):
        what = "the two end a text differently"
        reason = (
            "draft model eos tokens must match target model to use speculation. "
            f"add: {target.adds_eos:d} - {draft.adds_eos:d}, id: {_id(target.eos)} - {_id(draft.eos)})"
        )
    elif apart > MOST_ROWS_APART:
        what = f"the target has {target.rows:,} ids and the draft {draft.rows:,}"
        reason = (
            "draft model vocab must closely match target model to use speculation but target vocab size "
            f"{target.rows} does not match draft vocab size {draft.rows} - difference {apart}, max allowed "
            f"{MOST_ROWS_APART}"
        )
    elif different is not None:
        what = _texts(pair, different)
        reason = (
            f"draft model vocab must match target model to use speculation but token {different} content differs - "
            f"target '{target.tokens[different]}', draft '{draft.tokens[different]}'"
        )
    if reason:
        # seen on the real server: it logs the reason, starts, and answers without the draft
        yield Finding("refused", f"{what}; llama-server would start and never ask the draft", reason, _SAME_FAMILY)


def _id(token_id: int | None) -> int:
    """An id as llama.cpp prints it: -1 for none."""
    return -1 if token_id is None else token_id


def _tensorrt(pair: Pair, asked: Asked) -> Findings:
    target, draft = pair.target, pair.draft
    different = first_difference(pair)
    if len(target.tokens) != len(draft.tokens) or different is not None or target.rows != draft.rows:
        yield Finding(
            "refused",
            "target and draft have different vocabularies"
            + (f": {_texts(pair, different)}" if different is not None else ""),
            "It is important to make sure that the draft and target models were trained with the same tokenizer, else "
            "the acceptance rate is extremely low and performance is regressed.",
            _SAME_FAMILY,
        )
    for role, model in (("target", target), ("draft", draft)):
        if model.architecture not in _TENSORRT:
            yield Finding(
                "refused",
                f"the {role} is a {model.architecture}",
                f"Unknown architecture for AutoModelForCausalLM: {model.architecture}",
                "serve the pair with vLLM or SGLang",
            )
    if asked.target == "apart":
        yield Finding(
            "refused",
            "the adapter would be loaded beside the target",
            "the draft model path of TensorRT-LLM is documented for whole models alone",
            "give --target merged",
        )
    yield from cannot_share("tensorrt-llm", pair, asked)
    yield from _shorter(pair, asked, "past it the draft proposes noise")


def _transformers(pair: Pair, asked: Asked) -> Findings:
    target, draft = pair.target, pair.draft
    if target.rows != draft.rows:
        yield Finding(
            "refused",
            f"the target has {target.rows:,} rows and the draft {draft.rows:,}",
            "The main and assistant models have different tokenizers. Please provide `tokenizer` and "
            "`assistant_tokenizer` to `generate()`",
            _SAME_FAMILY,
        )
    elif (i := first_difference(pair)) is not None:
        yield Finding(
            "refused",
            f"the sizes agree and the texts do not: {_texts(pair, i)}",
            "generate() compares sizes alone and would verify ids that mean something else; next to nothing would be "
            "accepted",
            _SAME_FAMILY,
        )
    if asked.tensor_parallel > 1:
        yield Finding(
            "refused",
            f"--tensor-parallel {asked.tensor_parallel} with generate()",
            "assisted generate is only supported for batch_size = 1",
            "leave --tensor-parallel out, or export for vllm or sglang",
        )
    yield from _shorter(pair, asked, "past it the draft proposes noise")


def _shorter(pair: Pair, asked: Asked, then: str) -> Findings:
    longest, draft = asked.context_tokens or pair.target.context_tokens, pair.draft.context_tokens
    if longest and draft and longest > draft:
        yield Finding(
            "warning",
            f"the draft supports {draft:,} tokens, {longest:,} are asked for",
            then,
            f"give --context {draft}" if asked.context_tokens else f"the command limits the context to {draft}",
        )


RULES: dict[str, Callable[[Pair, Asked], Findings]] = {
    "transformers": _transformers,
    "vllm": _vllm,
    "sglang": _sglang,
    "llama.cpp": _llama_cpp,
    "tensorrt-llm": _tensorrt,
}
