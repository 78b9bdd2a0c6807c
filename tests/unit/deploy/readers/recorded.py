"""Answers and metrics in the documented form of each server, written by hand, and the counts that they mean."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from engine.deploy.readers.documents import Document, document
from engine.records.served import RoundTotals

TEXT = "A cell is the smallest unit of life. " * 3
VLLM: dict[str, Any] = {
    "id": "chatcmpl-1",
    "model": "target",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 54, "total_tokens": 74},
    "metrics": {
        "time_to_first_token_ms": 40.0,
        "generation_time_ms": 2000.0,
        "speculative_decoding": {
            "mean_acceptance_length": 1.2325581395348837,
            "draft_acceptance_rate": 0.07751937984496124,
            "acceptance_histogram": [39, 1, 0, 3],
            "num_spec_steps": 43,
            "num_accepted_draft_tokens": 10,
            "num_draft_tokens": 129,
            "num_spec_tokens": 3,
        },
    },
}
VLLM_COUNTS = RoundTotals(requests=1, rounds=43, proposed=129, accepted=10, accepted_at=[4, 3, 3], emitted=54)

SGLANG: dict[str, Any] = {
    "text": "A cell.",
    "meta_info": {
        "id": "1",
        "prompt_tokens": 20,
        "completion_tokens": 30,
        "e2e_latency": 1.5,
        "spec_accept_rate": 17 / 36,
        "spec_accept_length": 30 / 12,
        "spec_num_correct_drafts": 17,
        "spec_num_proposed_drafts": 36,
        "spec_accepted_drafts": 17,
        "spec_proposed_drafts": 36,
        "spec_verify_ct": 12,
        "spec_correct_drafts_histogram": [4, 2, 3, 3],
    },
}
SGLANG_COUNTS = RoundTotals(requests=1, rounds=12, proposed=36, accepted=17, accepted_at=[8, 6, 3], emitted=30)

LLAMA_CPP: dict[str, Any] = {
    "choices": [{"finish_reason": "length", "index": 0, "message": {"role": "assistant", "content": TEXT}}],
    "model": "target.gguf",
    "system_fingerprint": "b1-7e4c0a9",
    "usage": {"completion_tokens": 40, "prompt_tokens": 36, "total_tokens": 76},
    "timings": {
        "cache_n": 4,
        "prompt_n": 32,
        "prompt_ms": 290.716,
        "predicted_n": 40,
        "predicted_ms": 2000.0,
        "predicted_per_second": 20.0,
        "draft_n": 71,
        "draft_n_accepted": 14,
    },
}
LLAMA_CPP_COUNTS = RoundTotals(requests=1, proposed=71, accepted=14, emitted=40)

LLAMA_LOG = """\
0.03.723 I slot print_timing: id  0 | task 0 | prompt eval time =     290.72 ms /    36 tokens (    8.08 ms per token)
0.03.723 I slot print_timing: id  0 | task 0 |        eval time =    2434.58 ms /    40 tokens (   62.43 ms per token)
0.03.723 I slot print_timing: id  0 | task 0 | draft acceptance = 0.19718 (   14 accepted /    71 generated), mean len =  1.58
0.14.959 I slot print_timing: id  1 | task 27 |        eval time =   11192.77 ms /   200 tokens (   56.25 ms per token)
0.14.959 I slot print_timing: id  1 | task 27 | draft acceptance = 0.22792 (   80 accepted /   351 generated), mean len =  1.68
"""  # noqa: E501
LLAMA_LOG_COUNTS = RoundTotals(requests=2, proposed=422, accepted=94, emitted=240)

TENSORRT_ITERATIONS: list[dict[str, Any]] = [
    {"iter": 0, "specDecodingStats": {"numDraftTokens": 0, "numAcceptedTokens": 0, "numRequestsWithDraftTokens": 0}},
    {
        "iter": 1,
        "specDecodingStats": {
            "numDraftTokens": 24,
            "numAcceptedTokens": 12,
            "numRequestsWithDraftTokens": 8,
            "acceptanceLength": 2.5,
            "iterLatencyMS": 1.2,
            "draftOverhead": 0.1,
        },
    },
    {
        "iter": 1,
        "attentionDpRank": 1,
        "specDecodingStats": {"numDraftTokens": 24, "numAcceptedTokens": 12, "numRequestsWithDraftTokens": 8},
    },
    {
        "iter": 2,
        "specDecodingStats": {
            "numDraftTokens": 21,
            "numAcceptedTokens": 7,
            "numRequestsWithDraftTokens": 7,
            "acceptanceLength": 2.0,
        },
    },
]
TENSORRT_ITERATIONS_COUNTS = RoundTotals(rounds=15, proposed=45, accepted=19)

TENSORRT: dict[str, Any] = {
    "model": "target",
    "usage": {"completion_tokens": 50},
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "avg_decoded_tokens_per_iter": 2.5,
            "speculative_decoding": {
                "acceptance_rate": 0.5,
                "total_accepted_draft_tokens": 30,
                "total_draft_tokens": 60,
                "num_spec_steps": 20,
                "acceptance_histogram": [8, 0, 6, 6],
                "num_spec_tokens": None,
            },
        }
    ],
}
TENSORRT_COUNTS = RoundTotals(requests=1, rounds=20, proposed=60, accepted=30, accepted_at=[12, 12, 6], emitted=50)

LM_STUDIO: dict[str, Any] = {
    "model": "target",
    "usage": {"prompt_tokens": 18, "completion_tokens": 37, "total_tokens": 55},
    "stats": {
        "tokens_per_second": 97.0,
        "generation_time": 0.5,
        "draft_model": "draft",
        "total_draft_tokens_count": 20,
        "accepted_draft_tokens_count": 15,
        "rejected_draft_tokens_count": 4,
        "ignored_draft_tokens_count": 1,
    },
    "runtime": {"name": "llama.cpp", "version": "1.50.2"},
}
LM_STUDIO_COUNTS = RoundTotals(requests=1, proposed=20, accepted=15, emitted=37)
LM_STUDIO_SDK: dict[str, Any] = {
    "stopReason": "eosFound",
    "predictedTokensCount": 37,
    "totalDraftTokensCount": 20,
    "acceptedDraftTokensCount": 15,
    "rejectedDraftTokensCount": 4,
    "ignoredDraftTokensCount": 1,
}

AIPERF: dict[str, Any] = {
    "metadata": {"session_num": 1},
    "metrics": {},
    "spec_decode_acceptance": {
        "engine": "tensorrt_llm",
        "mean_acceptance_length": 2.5,
        "draft_acceptance_rate": 0.5,
        "acceptance_histogram": {"0": 8, "2": 6, "3": 6},
        "num_accepted_draft_tokens": 30,
        "num_draft_tokens": 60,
        "num_spec_steps": 20,
        "num_spec_tokens": 3,
        "completion_tokens": 50,
    },
}

VLLM_BENCH: dict[str, Any] = {
    "date": "20261128-031500",
    "endpoint_type": "openai-chat",
    "backend": "openai-chat",
    "model_id": "target",
    "tokenizer_id": "target",
    "num_prompts": 8,
    "max_concurrency": 4,
    "completed": 8,
    "failed": 0,
    "duration": 10.0,
    "total_input_tokens": 200,
    "total_output_tokens": 400,
    "output_throughput": 40.0,
    "spec_decode_acceptance_rate": 100 * 180 / 600,
    "spec_decode_acceptance_length": 1 + 180 / 200,
    "spec_decode_num_drafts": 200,
    "spec_decode_draft_tokens": 600,
    "spec_decode_accepted_tokens": 180,
    "spec_decode_per_position_acceptance_rates": [0.5, 0.25, 0.15],
}
VLLM_BENCH_COUNTS = RoundTotals(
    requests=8, rounds=200, proposed=600, accepted=180, accepted_at=[100, 50, 30], emitted=400
)


def vllm_scrape(rounds: int, places: Sequence[int], *, engine: str = "0", model: str = "target") -> str:
    """Metrics of one engine of vLLM in which so many tokens were accepted at each place."""
    labels = f'engine="{engine}",model_name="{model}"'
    counts = {
        "vllm:spec_decode_num_drafts_total": rounds,
        "vllm:spec_decode_num_draft_tokens_total": rounds * len(places),
        "vllm:spec_decode_num_accepted_tokens_total": sum(places),
        "vllm:generation_tokens_total": rounds + sum(places),
        "vllm:prompt_tokens_total": 10 * rounds,
    }
    lines = [f"{name}{{{labels}}} {float(count)}" for name, count in counts.items()]
    lines += [
        f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{{labels},position="{place}"}} {float(count)}'
        for place, count in enumerate(places)
    ]
    lines += [
        f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(count)}'
        for reason, count in (("stop", rounds // 10), ("length", 1))
    ]
    head = "# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.\n# TYPE vllm:x counter\n"
    created = f"vllm:spec_decode_num_drafts_created{{{labels}}} 1.7958e+09\n"
    return head + created + "\n".join(lines) + "\n"


def changed(value: dict[str, Any], path: str, to: Any) -> dict[str, Any]:
    """A copy with another value under a dotted path; `...` takes the key out."""
    result = copy.deepcopy(value)
    *parents, last = path.split(".")
    inner: Any = result
    for key in parents:
        inner = inner[int(key)] if key.isdecimal() else inner[key]
    if to is ...:
        del inner[last]
    else:
        inner[last] = to
    return result


def with_ids(value: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """An answer so many times, each with an id of its own where the server gives one."""
    path = "id" if "id" in value else "meta_info.id" if "id" in value.get("meta_info", {}) else ""
    return [changed(value, path, f"answer-{number}") if path else value for number in range(count)]


def as_file(*values: Any, name: str = "answers.jsonl") -> Document:
    """Some values as JSON lines, or one as JSON."""
    return document(name, "\n".join(json.dumps(value) for value in values).encode())
