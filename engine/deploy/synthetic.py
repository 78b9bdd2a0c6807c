"""The flags that make a server accept as often as a draft is expected to, whatever the draft proposes.

With them an owner times the server that they have with the draft that they do not have yet: any draft of the right
size and vocabulary stands in for it. The text is then not the target's, so they are for timing alone.

What each server was seen to take, in its source or documentation (November 2026). All rates are *joint*, not
conditional: the share of rounds in which a token and all before it were accepted, so they never rise.

- vllm: `rejection_sample_method: "synthetic"` and `synthetic_acceptance_rates`, one a place, in [0, 1], not rising,
  num_speculative_tokens of them; it divides neighbours to get the conditional ones (vLLM 0.32.0,
  `vllm/config/speculative.py`, `unconditional_to_conditional_rates` in `vllm/v1/spec_decode/utils.py`).
- llama.cpp: `--spec-synth-rates R1,R2,...`, of the same meaning, as many as --spec-draft-n-max; since pull request
  27711 of ggml-org/llama.cpp (opened in August 2026), absent from build 10434.
- sglang: `SGLANG_SIMULATE_ACC_LEN`, tokens per round with the target's own; with `SGLANG_SIMULATE_ACC_METHOD=
  match-expected`, since the other method, a rounded normal draw, misses the mean; with `SGLANG_SIMULATE_ACC_TOKEN_MODE=
  real-draft-token`, without which one fixed id is emitted. A whole batch gets the length below or above the mean, so
  places differ from the draft's (`generate_simulated_accept_index` in `python/sglang/srt/speculative/spec_utils.py`).
- tensorrt-llm: `TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS`, accepted tokens per round without the target's own; a
  fraction is the chance of one more, in the one-model path alone (`tensorrt_llm/_torch/speculative/interface.py`).
- transformers and lm-studio: none.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.catalogue import Proposals
from engine.deploy.schedule import DRAFT, vllm_draft

_DIGITS = 4


@dataclass(frozen=True)
class Synthetic:
    """What to pass to a server: `flags` on its command line, `environment` before it. Both empty where it has none."""

    server: str
    flags: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def synthetic_for(server: str, rates: Sequence[float], proposals: Proposals = "argmax") -> Synthetic:
    """The flags of a server of the catalogue. `rates`: joint acceptance by place, gamma of them.

    `proposals`: the server's rule, which only vLLM is asked for: drawing costs it time too.

    A round at the end of an answer proposes past it and accepts nothing there; the rates count such rounds as a server
    does, so they are a little lower than in the middle of an answer. Raises KeyError for a server without an entry
    here, ValueError for rates that are none or rise.
    """
    if not rates or not all(0 <= rate <= 1 for rate in rates):
        raise ValueError(f"rates must be shares of rounds, got {list(rates)}")
    if any(later > earlier + 1e-9 for earlier, later in itertools.pairwise(rates)):
        raise ValueError(f"the share of rounds that accept a token and all before it cannot rise, got {list(rates)}")
    given = [round(rate, _DIGITS) for rate in rates]
    return _vllm(given, proposals) if server == "vllm" else _FORMS[server](given)


def tokens_per_round(rates: Sequence[float]) -> float:
    """What such rates come to: the accepted tokens and the target's own."""
    return 1 + sum(rates)


def _vllm(rates: Sequence[float], proposals: Proposals) -> Synthetic:
    settings = {
        **vllm_draft(proposals),
        "num_speculative_tokens": len(rates),
        "rejection_sample_method": "synthetic",
        "synthetic_acceptance_rates": list(rates),
    }
    return Synthetic("vllm", f"--speculative-config '{json.dumps(settings)}'", (), (_TIMING_ALONE,))


def _llama_cpp(rates: Sequence[float]) -> Synthetic:
    flags = (
        f"-md {DRAFT} --spec-type draft-simple --spec-draft-n-max {len(rates)} --spec-draft-p-min 0 "
        f"--spec-synth-rates {','.join(f'{rate:g}' for rate in rates)}"
    )
    newer = "builds without it (10434 among them) refuse the flag: `llama-server --help | grep synth` shows it"
    return Synthetic("llama.cpp", flags, (), (_TIMING_ALONE, newer))


def _sglang(rates: Sequence[float]) -> Synthetic:
    environment = (
        ("SGLANG_SIMULATE_ACC_LEN", f"{tokens_per_round(rates):.{_DIGITS}g}"),
        ("SGLANG_SIMULATE_ACC_METHOD", "match-expected"),
        ("SGLANG_SIMULATE_ACC_TOKEN_MODE", "real-draft-token"),
    )
    flags = (
        f"--speculative-algorithm STANDALONE --speculative-draft-model-path {DRAFT} --speculative-eagle-topk 1 "
        f"--speculative-num-steps {len(rates)} --speculative-num-draft-tokens {len(rates) + 1}"
    )
    by_mean = "the mean length is met, not acceptance by place: each batch gets the length below or above the mean"
    return Synthetic("sglang", flags, environment, (_TIMING_ALONE, by_mean))


def _tensorrt_llm(rates: Sequence[float]) -> Synthetic:
    environment = (("TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS", f"{sum(rates):.{_DIGITS}g}"),)
    whole = "the two-model path reads whole numbers alone, and takes 0 for not set"
    return Synthetic("tensorrt-llm", "", environment, (_TIMING_ALONE, whole))


def _none(server: str) -> Callable[[Sequence[float]], Synthetic]:
    return lambda rates: Synthetic(server, notes=("it has no flag for synthetic acceptance",))


_TIMING_ALONE = "for timing alone: the text that comes out is not the target's"
_FORMS: dict[str, Callable[[Sequence[float]], Synthetic]] = {
    "llama.cpp": _llama_cpp,
    "sglang": _sglang,
    "tensorrt-llm": _tensorrt_llm,
    "transformers": _none("transformers"),
    "lm-studio": _none("lm-studio"),
}
