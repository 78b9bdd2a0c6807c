"""vLLM's OpenAI-compatible server: how it is started with a draft, asked and read.

Read in version 0.32.0. It proposes the draft's likeliest token, or with `draft_sample_method: probabilistic` one drawn
from q. Every round proposes gamma tokens, also where fewer are wanted, and what is kept past the limit or past the end
of the answer is counted. The first token comes from the pass over the prompt.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.chat.prompt import Message, Tool
from engine.deploy.readers.reading import draft_tokens
from engine.deploy.server_process import Program
from engine.deploy.server_rounds import rule_of
from engine.deploy.serving import Asked, Deployment, ServedAnswer, exchange_json, ids, unexpected, whole
from engine.errors import DraftbenchError
from engine.records.served import RoundTotals
from engine.served.http import Client

_MODEL = "target"  # the name that requests ask for
_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GB, on a CPU; half of the memory otherwise, and it must be free at the start
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # a container's cores may not be the ones that it finds
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}


class VllmServer:
    """`vllm serve`, on whatever device that vLLM was built for."""

    name = "vllm"
    rule = rule_of("vllm")
    health = "/health"
    startup_s = 600.0
    concurrency = 16

    def program(self, executable: Path, deployment: Deployment) -> Program:
        """The command that serves a Hugging Face folder, with or without a draft in another."""
        command = [str(executable), "serve", str(deployment.target), "--served-model-name", _MODEL]
        command += ["--dtype", deployment.dtype, "--max-model-len", str(deployment.context_tokens)]
        command += ["--max-num-seqs", str(self.concurrency), "--enforce-eager"]
        command += ["--generation-config", "vllm"]  # no sampling settings of the model's own
        command += ["--no-enable-prefix-caching"]  # or only a part of some prompts would be read
        if deployment.draft is not None:
            method = "greedy" if deployment.proposals == "argmax" else "probabilistic"
            speculative = {
                "method": "draft_model",
                "model": str(deployment.draft),
                "num_speculative_tokens": deployment.gamma,
                "draft_sample_method": method,
            }
            command += ["--speculative-config", json.dumps(speculative)]
            command += ["--per-request-spec-decode-metrics", "detailed"]
        return Program(tuple(command), _ENVIRONMENT)

    def version(self, executable: Path) -> str:
        """The version as the program prints it."""
        try:
            done = subprocess.run(
                [str(executable), "--version"], capture_output=True, text=True, timeout=300, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _no_version(executable, str(error)) from None
        lines = done.stdout.strip().splitlines()
        if done.returncode != 0 or not lines:
            raise _no_version(executable, (done.stderr.strip().splitlines() or ["it printed nothing"])[-1])
        return lines[-1].strip()

    async def ask(self, client: Client, url: str, asked: Asked, *, timed: bool) -> ServedAnswer:
        """Answer one prompt. `timed`: no other request runs, and the answer's seconds are wanted.

        vLLM reports no time per request unless it is asked to stream, so a timed prompt is asked twice: for one token,
        and for the whole answer. The difference is what the answer took after the prompt was read.
        """
        where = f"{url}/v1/completions"
        body: dict[str, Any] = {
            "model": _MODEL,
            "prompt": list(asked.prompt_ids),
            "max_tokens": asked.limit,
            "temperature": asked.temperature,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "seed": asked.seed,
            "add_special_tokens": False,
            "return_token_ids": True,
        }
        first_s = 0.0
        if timed:
            began = time.monotonic()
            await exchange_json(client, where, {**body, "max_tokens": 1})
            first_s = time.monotonic() - began
        began = time.monotonic()
        reply = await exchange_json(client, where, body)
        whole_s = time.monotonic() - began
        choices = reply.get("choices")
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise unexpected(where, "one choice", choices)
        tokens = ids(choices[0].get("token_ids"), "list of token ids", where)
        read = ids(choices[0].get("prompt_token_ids"), "prompt_token_ids", where)
        if read != list(asked.prompt_ids):
            raise DraftbenchError(
                f"vLLM read {len(read)} tokens for prompt {asked.prompt_id!r}, but was sent {len(asked.prompt_ids)}",
                "it changed the prompt, so its answer is to another one",
                "use the version that `draftbench served setup vllm` installs",
            )
        seconds = max(whole_s - first_s, 1e-9) if timed else None
        return ServedAnswer(asked.prompt_id, asked.temperature, tokens, _totals(reply, len(tokens), where), seconds)

    async def chat_ids(self, client: Client, url: str, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """The ids of the prompt in a chat completion of one token."""
        where = f"{url}/v1/chat/completions"
        body: dict[str, Any] = {"model": _MODEL, "messages": list(messages), "max_tokens": 1, "return_token_ids": True}
        if tools:
            body |= {"tools": list(tools), "tool_choice": "none"}
        return ids((await exchange_json(client, where, body)).get("prompt_token_ids"), "prompt_token_ids", where)


def _totals(reply: dict[str, Any], emitted: int, where: str) -> RoundTotals | None:
    """The rounds of one request; None without a draft. An answer of one token has no round, and no figures."""
    metrics = reply.get("metrics")
    figures = metrics.get("speculative_decoding") if isinstance(metrics, dict) else None
    if figures is None:
        return None
    if not isinstance(figures, dict):
        raise unexpected(where, "metrics.speculative_decoding", figures)
    kept = ids(figures.get("per_step_accepted"), "per_step_accepted", where)
    gamma = draft_tokens(figures, where)
    if gamma is None:
        raise unexpected(where, "num_spec_tokens", None)
    totals = RoundTotals(
        requests=1,
        rounds=whole(figures.get("num_spec_steps"), "num_spec_steps", where),
        proposed=whole(figures.get("num_draft_tokens"), "num_draft_tokens", where),
        accepted=whole(figures.get("num_accepted_draft_tokens"), "num_accepted_draft_tokens", where),
        accepted_at=[sum(count > place for count in kept) for place in range(gamma)],
        emitted=emitted,
    )
    if (len(kept), sum(kept)) != (totals.rounds, totals.accepted):
        raise unexpected(where, "per_step_accepted that adds up to its other counts", figures)
    return totals


def _no_version(executable: Path, why: str) -> DraftbenchError:
    return DraftbenchError(
        f"{executable} prints no version of vLLM", why, "name another with --program, or `draftbench served setup vllm`"
    )
