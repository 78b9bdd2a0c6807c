"""The command that starts a server with a target and its draft, flag by flag.

Written for vLLM 0.32.0, llama.cpp build 10434, SGLang 0.5, TensorRT-LLM 1.3 and Transformers 5.23. Paths are marks
that the caller replaces: a file beside the weights says where it lies itself, the terminal prints the folder.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from engine.catalogue import Proposals

HERE, HERE_IN_JSON, TARGET = "@HERE@", "@HERE_IN_JSON@", "@TARGET@"
"""The folder of the export, the same inside a text of JSON, and the target, in a command that is not at its place yet.
"""
SETTINGS = "speculative.yaml"
"""The file in which TensorRT-LLM reads its settings."""
_PORT = 8000
_MARKS = re.compile(f"({HERE}|{HERE_IN_JSON}|{TARGET})")


@dataclass(frozen=True)
class Serving:
    """How a pair is served. `draft`, `target`, `adapter`: paths, with HERE and TARGET in them."""

    gamma: int
    proposals: Proposals
    dtype: str
    draft: str = HERE
    target: str = TARGET
    adapter: str | None = None
    adapter_rank: int = 0
    context_tokens: int | None = None
    tensor_parallel: int = 1
    top_k: int = 0
    top_p: float = 1.0
    """The sampling that was measured; 0 and 1: all tokens."""


def start_command(server: str, serving: Serving) -> list[list[str]]:
    """The command as lines of arguments: the program first, then each flag with its value."""
    return _COMMANDS[server](serving)


def script(server: str, serving: Serving, *, target: str | None, needs: str) -> tuple[str, str]:
    """The name and text of the file that starts the server from the export's folder.

    `target`: where it lies, seen from anywhere (a name of the hub, or HERE/...); None: it is the script's first
    argument, which `needs` describes.
    """
    if server == "transformers":
        return "serve.py", _python(serving, target, needs)
    missing = f"{{ printf '%s\\n' {shlex.quote(f'give the target: {needs}')} >&2; exit 2; }}"
    command = shell(start_command(server, serving))
    lines = [
        "#!/bin/sh",
        "# Starts the server with the draft of this folder. The first argument is the target, unless it begins with a",
        "# dash (write ./-NAME for a folder that does); all others are passed on.",
        "# It listens on this machine alone: add --host to change that.",
        "set -eu",
        'HERE="$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)"',
        *(
            ['HERE_IN_JSON="$(printf %s "$HERE" | LC_ALL=C sed \'s/["\\]/\\\\&/g\')"']
            if "$HERE_IN_JSON" in command
            else []
        ),
        '[ "${1-given}" ] || shift',  # an empty one stands for none
        'case "${1:--}" in',
        f"  -*) {missing if target is None else f'TARGET={_word(target, None, None)}'} ;;",
        '  *) TARGET="$1"; shift ;;',
        "esac",
        f'exec {command} \\\n  "$@"',
        "",
    ]
    return "serve.sh", "\n".join(lines)


def shell(command: list[list[str]], *, here: str | None = None, target: str | None = None) -> str:
    """The command for a shell, a flag per line. `here`, `target`: what replaces the marks; None: shell variables."""
    return " \\\n  ".join(" ".join(_word(word, here, target) for word in line) for line in command)


def _word(word: str, here: str | None, target: str | None) -> str:
    """One argument for a shell. What replaces a mark is never searched for marks itself."""
    values = {HERE: here, HERE_IN_JSON: None if here is None else json.dumps(here)[1:-1], TARGET: target}
    quoted, text = "", ""
    for part in _MARKS.split(word):
        value = values.get(part, part)
        if value is not None:
            text += value
        else:
            quoted += (shlex.quote(text) if text else "") + f'"${part.strip("@")}"'
            text = ""
    return quoted + (shlex.quote(text) if text or not quoted else "")


def _vllm(serving: Serving) -> list[list[str]]:
    config: dict[str, Any] = {
        "method": "draft_model",
        "model": serving.draft.replace(HERE, HERE_IN_JSON),
        "num_speculative_tokens": serving.gamma,
        "draft_sample_method": "greedy" if serving.proposals == "argmax" else "probabilistic",
    }
    lines = [
        ["vllm", "serve", serving.target],
        ["--speculative-config", json.dumps(config)],
        ["--dtype", serving.dtype],
        *_maybe("--max-model-len", serving.context_tokens),
        *_maybe("--tensor-parallel-size", serving.tensor_parallel if serving.tensor_parallel > 1 else None),
        # the settings that the model ships with would change what is sampled, and so the acceptance
        ["--generation-config", "vllm"],
        ["--per-request-spec-decode-metrics", "detailed"],
    ]
    if serving.adapter:
        lines += [
            ["--enable-lora"],
            # as JSON: the form NAME=PATH takes no "=" or "," in a path
            ["--lora-modules", json.dumps({"name": "tuned", "path": serving.adapter.replace(HERE, HERE_IN_JSON)})],
            ["--max-lora-rank", str(_rank(serving.adapter_rank))],
        ]
    return [*lines, ["--host", "127.0.0.1"], ["--port", str(_PORT)]]


def _rank(rank: int) -> int:
    """The smallest rank that vLLM provides for and that is not below the adapter's."""
    return next((size for size in (1, 8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)


def _sglang(serving: Serving) -> list[list[str]]:
    return [
        ["python", "-m", "sglang.launch_server"],
        ["--model-path", serving.target],
        ["--speculative-algorithm", "STANDALONE"],
        ["--speculative-draft-model-path", serving.draft],
        ["--speculative-num-steps", str(serving.gamma)],
        ["--speculative-eagle-topk", "1"],
        ["--speculative-num-draft-tokens", str(serving.gamma + 1)],  # with the token that is verified anyway
        ["--dtype", serving.dtype],
        *_maybe("--context-length", serving.context_tokens),
        *_maybe("--tp-size", serving.tensor_parallel if serving.tensor_parallel > 1 else None),
        ["--sampling-defaults", "openai"],  # as --generation-config of vLLM
        ["--host", "127.0.0.1"],
        ["--port", str(_PORT)],
    ]


def _llama_cpp(serving: Serving) -> list[list[str]]:
    return [
        ["llama-server"],
        ["--model", serving.target],
        ["--spec-draft-model", serving.draft],
        ["--spec-type", "draft-simple"],  # the default is none: without it the draft is loaded and never asked
        ["--spec-draft-n-max", str(serving.gamma)],
        ["--spec-draft-n-min", "0"],
        ["--spec-draft-p-min", "0"],
        *_maybe("--ctx-size", serving.context_tokens),
        ["--parallel", "1"],
        # its own defaults (40, 0.95 and 0.05) would cut the target's distribution, and so change the acceptance
        ["--top-k", str(serving.top_k)],
        ["--top-p", f"{serving.top_p:g}"],
        ["--min-p", "0"],
        ["--host", "127.0.0.1"],
        ["--port", str(_PORT)],
    ]


def _tensorrt(serving: Serving) -> list[list[str]]:
    return [
        ["trtllm-serve", serving.target],
        ["--backend", "pytorch"],
        *_maybe("--max_seq_len", serving.context_tokens),
        *_maybe("--tp_size", serving.tensor_parallel if serving.tensor_parallel > 1 else None),
        ["--extra_llm_api_options", f"{HERE}/{SETTINGS}"],
        ["--host", "127.0.0.1"],
        ["--port", str(_PORT)],
    ]


def tensorrt_settings(serving: Serving, draft: str) -> str:
    """What TensorRT-LLM reads from a file: YAML. `draft`: the path of the draft on the server's machine."""
    lines = [
        "disable_overlap_scheduler: true",
        "speculative_config:",
        "  decoding_type: Draft_Target",
        f"  max_draft_len: {serving.gamma}",
        f"  speculative_model: {json.dumps(draft)}  # change it if the folder moves",
        "",
    ]
    return "\n".join(lines)


def _transformers(serving: Serving) -> list[list[str]]:
    return [["python", f"{HERE}/serve.py", serving.target]]


def _python(serving: Serving, target: str | None, needs: str) -> str:
    """A program that answers one question with the pair; `transformers serve` has no assistant."""
    adapter = serving.adapter.removeprefix(f"{HERE}/") if serving.adapter else None
    beside = target is not None and target.startswith(f"{HERE}/")
    place = f"str(HERE / {target.removeprefix(f'{HERE}/')!a})" if target is not None and beside else f"{target!a}"
    return f'''"""Answers a question with the target, assisted by the draft of this folder.

    python serve.py [TARGET] [QUESTION]

One question at a time: generate() with an assistant takes no batch.
"""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
TARGET, ADAPTER = {place}, {adapter!a}

given = sys.argv[1] if len(sys.argv) > 1 else TARGET
if given is None:
    sys.exit({f"give the target: {needs}"!a})
question = sys.argv[2] if len(sys.argv) > 2 else "Why do leaves turn red in autumn?"
tokenizer = AutoTokenizer.from_pretrained(HERE)
target = AutoModelForCausalLM.from_pretrained(given, dtype={serving.dtype!a})
if ADAPTER is not None:
    target.load_adapter(str(HERE / ADAPTER))
draft = AutoModelForCausalLM.from_pretrained(HERE, dtype={serving.dtype!a})
inputs = tokenizer.apply_chat_template(
    [{{"role": "user", "content": question}}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)
# The draft's own generation settings say how many tokens it proposes: num_assistant_tokens={serving.gamma}.
answer = target.generate(**inputs, assistant_model=draft, max_new_tokens=200, do_sample=False)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
'''


def _maybe(flag: str, value: int | None) -> list[list[str]]:
    return [] if value is None else [[flag, str(value)]]


_COMMANDS = {
    "transformers": _transformers,
    "vllm": _vllm,
    "sglang": _sglang,
    "llama.cpp": _llama_cpp,
    "tensorrt-llm": _tensorrt,
}


def request_note(server: str, serving: Serving) -> str:
    """What a request must say so that the server samples as was measured; '' if nothing."""
    cut = [f"top_k {serving.top_k}"] if serving.top_k else []
    cut += [f"top_p {serving.top_p:g}"] if serving.top_p < 1 else []
    if not cut or server == "llama.cpp":
        return ""
    return f"The run was measured with {' and '.join(cut)}: send them with each request."
