"""What a server counted of a probe's requests: the figures in its answers and those of its /metrics, as one reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.deploy.readers import llama_cpp, lm_studio, prometheus, sglang, tensorrt_llm, vllm
from engine.deploy.readers.reading import Located, Reading, foreign
from engine.errors import DraftbenchError

ANSWERS = {
    "vllm": vllm,
    "sglang": sglang,
    "llama.cpp": llama_cpp,
    "tensorrt-llm": tensorrt_llm,
    "lm-studio": lm_studio,
}
"""Server -> the reader of its answers."""
HOW_TO_REPORT = {
    "vllm": "start vLLM with --speculative-config, and --per-request-spec-decode-metrics summary",
    "sglang": "start SGLang with --speculative-algorithm STANDALONE, 0.5.3 or newer",
    "llama.cpp": "start llama-server with -md DRAFT.gguf --spec-type draft-simple --metrics",
    "tensorrt-llm": "start trtllm-serve with a speculative_config and return_perf_metrics",
    "lm-studio": "name the draft with --draft-model, and use http://HOST:1234/api/v0",
}
"""Server -> how to make it report speculation."""


def of_answers(server: str, values: Sequence[Located]) -> Reading | None:
    """The figures in a server's answers; None where they have none."""
    module = ANSWERS[server]
    if not any(module.claims(located.value) for located in values):
        return None
    try:
        with foreign("the answers"):
            reading: Reading = module.read(values)
            return reading
    except DraftbenchError as error:
        if error.what.endswith("no tokens were proposed"):
            return None
        raise


def of_metrics(before: str | None, after: str | None) -> tuple[Reading | None, str]:
    """What was counted between two scrapes, or None and why; without a reason where there are no metrics at all."""
    if before is None or after is None or not prometheus.claims_text(after):
        return None, ""
    try:
        with foreign("/metrics"):
            return prometheus.read(after, "/metrics after", before, "/metrics before"), ""
    except DraftbenchError as error:
        return None, f"/metrics is not read: {error.what}"


def joined(answers: Reading | None, metrics: Reading | None) -> tuple[Reading | None, bool]:
    """One reading of the two, and whether they count the same."""
    if answers is None or metrics is None:
        return answers or metrics, metrics is not None
    mine, counted = answers.totals, metrics.totals
    same = (mine.proposed, mine.accepted) == (counted.proposed, counted.accepted)
    if mine.rounds is not None and counted.rounds is not None:
        same = same and mine.rounds == counted.rounds
    if not same:
        note = "other requests were served meanwhile, or answers left out: /metrics is not read, as it counts others"
        return replace(answers, notes=(*answers.notes, note)), False
    whole = mine.model_copy(
        update={
            "rounds": mine.rounds if mine.rounds is not None else counted.rounds,
            "accepted_at": mine.accepted_at if mine.accepted_at is not None else counted.accepted_at,
        }
    )
    notes = [note for note in answers.notes if not note.startswith("rounds are not in llama-server's answers")]
    source = answers.source if mine.rounds is not None else f"{answers.source}, and /metrics"
    return replace(answers, totals=whole, gamma=answers.gamma or metrics.gamma, source=source, notes=tuple(notes)), True
