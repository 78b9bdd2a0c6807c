"""The best gamma by batch size in the form in which each server takes it.

What each server was seen to take, in its source or documentation (November 2026):

- vllm: `num_speculative_tokens_per_batch_size: [[first, last, gamma], ...]` in `--speculative-config`. Both ends count,
  ranges do not overlap, the first begins at 1; gaps and sizes after the last range keep the gamma before them; none is
  above num_speculative_tokens; 0 drafts nothing. vLLM 0.32.0, `vllm/v1/spec_decode/dynamic/utils.py`; its page
  features/speculative_decoding/dynamic_speculative_decoding says that it was tested with Eagle, Eagle-3 and DFlash,
  that other methods "may or may not work", and that data parallelism turns it off.
- sglang: `--speculative-adaptive --speculative-adaptive-config FILE`, {"batch size": {"candidate_steps": [gamma]}}, a
  key being the smallest size of its range (`python/sglang/srt/speculative/adaptive_spec_params.py` and
  `adaptive_step_router.py`). For EAGLE and EAGLE3 alone: with STANDALONE, which serves a draft model, it warns and uses
  --speculative-num-steps.
- tensorrt-llm: `draft_len_schedule: {batch size: gamma}` of `DraftTargetDecodingConfig`, a gamma up to its key and none
  after the largest; that of the smallest key is max_draft_len, and none is above it (`tensorrt_llm/llmapi/llm_args.py`,
  `tensorrt_llm/_torch/speculative/interface.py`). So since pull request 10860 of March 2026; before it, a key was the
  smallest size of its range.
- llama.cpp: one gamma, `--spec-draft-n-max`, and no schedule (`llama-server --help`, build 10434).
- transformers: one gamma, of the draft's generation settings, at batch size 1 alone (Transformers 5.23,
  `generation/candidate_generator.py`).
- lm-studio: its REST interface names the draft and sets no gamma (lmstudio.ai/docs/app/advanced/speculative-decoding).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.catalogue import Proposals
from engine.measure.predicted_speed import ranges

Range = tuple[int, int, int]
"""(first batch size, last batch size, gamma)."""
DRAFT = "DRAFT"
"""The folder of the exported draft, in what is to be passed."""


@dataclass(frozen=True)
class Schedule:
    """What to pass to a server, and what to know about it.

    `settings`: the same as data; None where the server is to be started without a draft, or takes no gamma.
    `files`: text by file name, where a flag names a file.
    """

    server: str
    flags: str
    settings: Any
    files: Mapping[str, str]
    notes: tuple[str, ...]


def schedule_for(server: str, best: Mapping[int, int], proposals: Proposals = "argmax") -> Schedule:
    """The schedule of a server of the catalogue. `best`: measured batch size -> best gamma, 0 for plain decoding.

    `proposals`: the server's rule, which only vLLM is asked for. Raises KeyError for a server without a form here,
    ValueError without a batch size.
    """
    if not best:
        raise ValueError("a schedule needs a measured batch size")
    spans = ranges(best)
    if server != "lm-studio" and not any(gamma for *_, gamma in spans):
        none = "no gamma clearly pays at any measured batch size: start the server without a draft"
        return Schedule(server, "", None, {}, (none,))
    return _vllm(spans, proposals) if server == "vllm" else _FORMS[server](spans)


def vllm_draft(proposals: Proposals) -> dict[str, Any]:
    """What every `--speculative-config` with a draft model says of the draft."""
    sampled = {"draft_sample_method": "probabilistic"} if proposals == "sampled" else {}
    return {"method": "draft_model", "model": DRAFT, **sampled}


def _vllm(spans: Sequence[Range], proposals: Proposals) -> Schedule:
    settings = {
        **vllm_draft(proposals),
        "num_speculative_tokens": max(gamma for *_, gamma in spans),
        "num_speculative_tokens_per_batch_size": [list(span) for span in spans],
    }
    notes = (
        _beyond(spans, f"vLLM keeps gamma {spans[-1][2]} there"),
        "vLLM has tested such a schedule with Eagle and DFlash and not with draft models; it turns it off under data "
        "parallelism",
    )
    return Schedule("vllm", f"--speculative-config '{json.dumps(settings)}'", settings, {}, notes)


def _sglang(spans: Sequence[Range]) -> Schedule:
    static = _first_that_drafts(spans)
    file = {str(first): {"candidate_steps": [gamma]} for first, _, gamma in spans}
    name = "adaptive.json"
    notes = (
        f"a draft model runs under STANDALONE, for which SGLang has no schedule: it warns, ignores {name} and uses the "
        f"one gamma above, the best at a batch size of {static[0]} to {static[1]}",
        f"for EAGLE and EAGLE3 {name} is read with --speculative-adaptive --speculative-adaptive-config {name}",
    )
    flags = (
        f"--speculative-algorithm STANDALONE --speculative-draft-model-path {DRAFT} --speculative-eagle-topk 1 "
        f"--speculative-num-steps {static[2]} --speculative-num-draft-tokens {static[2] + 1}"
    )
    settings = {"speculative_num_steps": static[2], "speculative_num_draft_tokens": static[2] + 1}
    return Schedule("sglang", flags, settings, {name: json.dumps(file, indent=2) + "\n"}, notes)


def _tensorrt_llm(spans: Sequence[Range]) -> Schedule:
    _, last, most = spans[0]
    if most == 0:
        no_form = (
            f"plain decoding is best up to a batch size of {last} and gamma {spans[1][2]} after it, which TensorRT-LLM "
            "cannot say, as the smallest batch size has the largest draft length: choose for the batch size you have",
        )
        return Schedule("tensorrt-llm", "", None, {}, no_form)
    lengths = {last: min(gamma, most) for _, last, gamma in spans}
    notes = [_beyond(spans, "TensorRT-LLM does not draft there")]
    cut = [span for span in spans if span[2] > most]
    if cut:
        notes.append(
            f"the best gamma rises to {max(gamma for *_, gamma in cut)} at larger batch sizes; TensorRT-LLM allows "
            f"none above that of the smallest, so it is cut to {most}"
        )
    notes.append("versions before pull request 10860 (March 2026) read a key as the smallest size of its range")
    settings = {"max_draft_len": most, "speculative_model": DRAFT, "draft_len_schedule": lengths}
    call = f"DraftTargetDecodingConfig(max_draft_len={most}, speculative_model='{DRAFT}', draft_len_schedule={lengths})"
    return Schedule("tensorrt-llm", call, settings, {}, tuple(notes))


def _llama_cpp(spans: Sequence[Range]) -> Schedule:
    gamma = _first_that_drafts(spans)[2]
    flags = f"-md {DRAFT} --spec-type draft-simple --spec-draft-n-max {gamma} --spec-draft-p-min 0"
    return Schedule("llama.cpp", flags, {"spec_draft_n_max": gamma}, {}, _one_gamma("llama.cpp", spans))


def _transformers(spans: Sequence[Range]) -> Schedule:
    gamma = spans[0][2]
    if gamma == 0:
        none = "no gamma clearly pays at a batch size of 1, and Transformers drafts for no other: leave the draft out"
        return Schedule("transformers", "", None, {}, (none,))
    settings = {
        "num_assistant_tokens": gamma,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.0,
    }
    given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    note = "they belong to the draft: without the last two it proposes fewer tokens where it is not sure"
    return Schedule("transformers", f"draft.generation_config.update({given})", settings, {}, (note,))


def _lm_studio(spans: Sequence[Range]) -> Schedule:
    return Schedule("lm-studio", "", None, {}, ("its REST interface names a draft and has no setting for gamma",))


_FORMS: dict[str, Callable[[Sequence[Range]], Schedule]] = {
    "sglang": _sglang,
    "tensorrt-llm": _tensorrt_llm,
    "llama.cpp": _llama_cpp,
    "transformers": _transformers,
    "lm-studio": _lm_studio,
}


def _first_that_drafts(spans: Sequence[Range]) -> Range:
    return next(span for span in spans if span[2])


def _one_gamma(server: str, spans: Sequence[Range]) -> tuple[str, ...]:
    first, last, _ = _first_that_drafts(spans)
    if len(spans) == 1:
        return ()
    others = "; ".join(f"{_sizes(a, b)}: {g or 'no draft'}" for a, b, g in spans if (a, b) != (first, last))
    return (f"{server} takes one gamma, here the best at a batch size of {_sizes(first, last)} (others: {others})",)


def _sizes(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _beyond(spans: Sequence[Range], what: str) -> str:
    return f"batch sizes above {spans[-1][1]} were not measured; {what}"
