"""Refuse chat templates that do not end or take too much memory before they are used: strangers wrote them.

Jinja's sandbox protects the machine, but not against running for ever: loops nest, and strings multiply. So a template
is tried once on ordinary conversations in a process of its own, with limits of time and memory, which can be stopped
whatever thread started it. A success is remembered by the template's hash.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

from engine.chat.prompt import Message, Tool
from engine.errors import DraftbenchError
from engine.fileio import content_hash, write_json
from engine.paths import cache_dir

_MOST_CHARACTERS = 1_000_000
_SECONDS, _BYTES = 4, 800_000_000  # of processor time and of memory, in addition to the start of the libraries
_WAIT_S = 60  # of the clock: a busy machine may give the child little processor time
_WRITTEN = 20_000_000  # characters that a few short conversations may become

_PARAMETERS = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}
_TOOL: Tool = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": _PARAMETERS}}
_CHILD = """
import json, resource, sys
from transformers.utils.chat_template_utils import render_jinja_template
asked = json.load(sys.stdin)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
if used:
    resource.setrlimit(resource.RLIMIT_AS, (used + asked["bytes"],) * 2)
spent = resource.getrusage(resource.RUSAGE_SELF)
resource.setrlimit(resource.RLIMIT_CPU, (int(spent.ru_utime + spent.ru_stime) + 1 + asked["seconds"],) * 2)
for talk in asked["talks"]:
    for tools in (None, asked["tools"]):
        try:
            text = render_jinja_template([talk], tools=tools, chat_template=asked["template"],
                                         add_generation_prompt=True, **asked["marks"])[0][0]
        except MemoryError:
            sys.exit(3)
        except Exception:
            continue  # a template may want other turns, and says so
        if len(text) > asked["written"]:
            sys.exit(3)
"""


def check_template(tokenizer: Any, name: str) -> None:
    """Raise DraftbenchError for a chat template that is not text, is too long, or does not end."""
    template = tokenizer.chat_template
    if not template:
        return
    if isinstance(template, dict) and "default" not in template:
        raise _refused(name, f"its templates are named {', '.join(sorted(template))}, and none is 'default'")
    texts = list(template.values()) if isinstance(template, dict) else [template]
    for text in texts:
        if not isinstance(text, str):
            raise _refused(name, f"it is {type(text).__name__}, not text")
        if len(text) > _MOST_CHARACTERS:
            raise _refused(name, f"it has {len(text):,} characters")
        marks = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
        reason = _failure(text, json.dumps(marks, sort_keys=True))
        if reason:
            raise _refused(name, reason)


@cache
def _failure(template: str, marks: str) -> str:
    """Why the template is refused; "" if it ended, which is remembered on disk too."""
    import transformers

    key = content_hash([template, marks, transformers.__version__])
    note = cache_dir() / "templates" / f"{key[:32]}.json"
    if note.is_file():
        return ""
    reason = _in_child(template, json.loads(marks))
    if not reason:
        write_json(note, {"ended": True})
    return reason


def _in_child(template: str, marks: dict[str, str]) -> str:
    asked = {
        "template": template,
        "marks": marks,
        "talks": _talks(),
        "tools": [_TOOL],
        "seconds": _SECONDS,
        "bytes": _BYTES,
        "written": _WRITTEN,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=_WAIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it runs longer than {_WAIT_S} s on a few short conversations"
    if done.returncode == 3:
        return f"it writes more than {_WRITTEN:,} characters, or needs more than {_BYTES / 1e6:.0f} MB"
    if done.returncode < 0:  # stopped by the system: the limit of processor time
        return f"it runs longer than {_SECONDS} s on a few short conversations"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"it cannot be tried: {last[:200]}"
    return ""


def _talks() -> list[list[Message]]:
    """Conversations of each kind in recipes, and a long one, in which text that doubles per turn explodes."""
    user, answer = {"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}
    function = {"name": "add", "arguments": {"a": 2, "b": 2}}
    call = {"id": "call00001", "type": "function", "function": function}
    return [
        [user],
        [{"role": "system", "content": "Be brief."}, user],
        [user, answer] * 40 + [user],
        [
            user,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": "add", "content": "4"},
        ],
    ]


def _refused(name: str, why: str) -> DraftbenchError:
    return DraftbenchError(
        f"the chat template of {name} cannot be used: {why}",
        "it is run for every prompt",
        "put the chat_template.jinja that the model is served with beside its tokenizer",
    )
