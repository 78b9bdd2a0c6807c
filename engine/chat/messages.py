"""Convert chats to one normal form as soon as a record is read, whatever reads it.

In normal form a conversation is a tuple of messages, and a message is an object with

- `role`: system, user, assistant or tool. Other dialects are translated (`ROLES`): ShareGPT's human and gpt,
  `developer`, `function`, `observation`. ShareGPT's `from` and `value` become `role` and `content`.
- `content`: text, always present. Parts of text are joined by line breaks. Beside `tool_calls`, null or missing
  content is "".
- `tool_calls` of an assistant, only if there are any: {"type": "function", "function": {"name", "arguments"}}, where
  `arguments` is an object, as chat templates expect, and not JSON text as in the API; an `id` is kept. Calls without
  the outer `function` or `type`, OpenAI's legacy `function_call` and turns of the role `function_call` are converted.
- all other keys unchanged; null ones are left out.

Of tool schemas null keys are left out too, at every depth, as Parquet has them, except values that are data (`_DATA`).

Serving engines do the same to a request before the template sees it (vLLM's `_postprocess_messages`, SGLang's
`process_messages`): they decode `arguments` once and refuse text that is not JSON, join parts of text with line breaks
and read null content as "". A message in normal form is returned with the same keys and values, so that a prompt keeps
its identity. `for_api` converts back to the API's form.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from engine.chat.prompt import Message, Tool, ToolCall
from engine.errors import did_you_mean
from engine.untrusted import json_text, python_text

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "ipython": "tool",
}
_CALLING_ROLES = ("function_call", "tool_call")  # their content is the call, as JSON
_CONTENT_KEYS = ("content", "value", "text", "message", "parts")
_ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")
_TEXT_PARTS = (None, "text", "input_text", "output_text", "refusal")
# Media that a template for text silently leaves out: Ollama's `images`, OpenAI's `audio`, a chat's attachments.
_NOT_TEXT = frozenset(
    {
        "image",
        "images",
        "image_url",
        "audio",
        "audios",
        "input_audio",
        "video",
        "videos",
        "video_url",
        "file",
        "files",
        "attachments",
        "experimental_attachments",
        "inline_data",
        "inlineData",
        "file_data",
        "fileData",
        "thought",
    }
)
# Keys of a call that are not its arguments under another name.
_CALL_KEYS = frozenset({"id", "type", "name", "function", "index", "call_id", "tool_call_id", "status", "description"})
_DATA = frozenset({"default", "const", "enum", "examples", "example"})  # of a JSON schema: null is a value there
_TOOL_SHAPE = '{"type": "function", "function": {"name": ..., "parameters": {...}}}'


class BadRecordError(Exception):
    """A record that is not a prompt; the message is a reason that can be shown."""


def normal(messages: Any, column: str = "messages", seen: Counter[str] | None = None) -> tuple[Message, ...]:
    """Convert `messages` to normal form. `seen` counts the translations. Raises BadRecordError."""
    value = decoded(messages, column)
    if not isinstance(value, list | tuple):
        raise BadRecordError(f"{column!r} must be a list of messages, not {kind(value)}")
    if not value:
        raise BadRecordError(f"{column!r} is an empty list; it must be a list of messages")
    counts: Counter[str] = Counter() if seen is None else seen
    return tuple(_message(number, message, counts) for number, message in enumerate(value, 1))


def normal_tools(tools: Any, column: str = "tools") -> tuple[Tool, ...]:
    """Convert tool schemas to OpenAI's form, also those without the outer `function`. Raises BadRecordError."""
    value = decoded(tools, column)
    if value is None or value == {}:
        return ()
    if not isinstance(value, list | tuple):
        raise BadRecordError(f"{column!r} must be a list of schemas, not {kind(value)}")
    return tuple(_tool(number, tool) for number, tool in enumerate(value, 1))


def normal_call(call: Any, where: str = "a tool call") -> ToolCall:
    """Convert a call to {"type": "function", "function": {"name", "arguments": {...}}}. Raises BadRecordError."""
    if not isinstance(call, Mapping):
        raise BadRecordError(f"{where} must be an object, not {kind(call)}")
    shell = {key: value for key, value in call.items() if value is not None}
    inner = shell.get("function")
    if isinstance(inner, Mapping):
        outside = {key: shell.pop(key) for key in _ARGUMENT_KEYS if key in shell}
        typed = {} if "type" in shell else {"type": "function"}
        return {**typed, **shell, "function": _function(_joined(inner, outside, where), where)}
    flat = {"name": inner, **shell} if isinstance(inner, str) else shell  # {"function": "add", "arguments": {}}
    _refuse_unread_arguments(flat, where)
    kept = {"id": shell["id"]} if "id" in shell else {}
    named = {key: flat[key] for key in ("name", *_ARGUMENT_KEYS) if key in flat}
    return {**kept, "type": "function", "function": _function(named, where)}


def for_api(messages: Sequence[Message]) -> list[Message]:
    """Convert messages in normal form to that of OpenAI's API: `arguments` as JSON text, an id per call and its answer.

    A call without an id gets `call_0`, `call_1` ... over the whole conversation; a tool's message without one answers
    the first call that has no answer yet.
    """
    converted: list[Message] = []
    number, open_calls = 0, list[str]()
    for message in messages:
        out = dict(message)
        if calls := message.get("tool_calls"):
            out["tool_calls"] = []
            for call in calls:
                function = dict(call["function"])
                function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
                named = {"id": f"call_{number}", "type": "function", **call, "function": function}
                out["tool_calls"].append(named)
                number += 1
            open_calls = [call["id"] for call in out["tool_calls"]]
        if message["role"] == "tool":
            answered = message.get("tool_call_id") or (open_calls[0] if open_calls else "call_0")
            out["tool_call_id"] = answered
            open_calls = [call_id for call_id in open_calls if call_id != answered]
        converted.append(out)
    return converted


def _message(number: int, value: Any, seen: Counter[str]) -> Message:
    where = f"message {number}"
    if not isinstance(value, Mapping):
        raise BadRecordError(f"{where} must be an object with role and content, not {kind(value)}")
    message = {key: inner for key, inner in value.items() if inner is not None}
    if media := next((key for key in message if key in _NOT_TEXT and message[key]), None):
        raise BadRecordError(f"{where} holds {media!r}; only text can be used")
    sender = message.pop("from", None)
    written = message.pop("role", sender)
    role = _role(written, where, seen)
    if isinstance(sender, str) and ROLES.get(sender.strip().lower(), role) != role:
        raise BadRecordError(f"{where} has role {written!r}, and is from {sender!r}")
    content = _content(message, where, seen)
    calls = _calls(message, where)
    if not calls and str(written).strip().lower() in _CALLING_ROLES:
        calls, content = _calls_in(content, where), ""
    normal_message: Message = {"role": role, "content": _checked_content(content, role, where, bool(calls), seen)}
    normal_message |= {"tool_calls": calls} if calls else {}
    return _in_order(value, normal_message | message)


def _in_order(before: Mapping[str, Any], after: Message) -> Message:
    """The message with its keys in their original order, so that one in normal form stays the same text."""
    return {key: after[key] for key in dict.fromkeys((*before, *after)) if key in after}


def _role(written: Any, where: str, seen: Counter[str]) -> str:
    role = ROLES.get(written.strip().lower()) if isinstance(written, str) else None
    if role is None:
        known = did_you_mean(written, ROLES) if isinstance(written, str) else f"known: {', '.join(sorted(ROLES))}"
        raise BadRecordError(f"{where} has role {written!r}; {known}")
    if role != written:
        seen[f"role {written!r} read as {role!r}"] += 1
    return role


def _content(message: Message, where: str, seen: Counter[str]) -> Any:
    """Take the content out of `message`, whatever its name."""
    texts = {
        key: _text_of(message[key], key, where)
        for number, key in enumerate(key for key in _CONTENT_KEYS if key in message)
        if number == 0 or isinstance(message[key], str | list | tuple)
    }
    if not texts:
        return None
    filled = {key: text for key, text in texts.items() if text.strip()}
    if len({text.strip() for text in filled.values()}) > 1:
        raise BadRecordError(f"{where} says one thing in {' and another in '.join(map(repr, filled))}")
    name = next(iter(filled or texts))
    content = message.pop(name)
    message.pop("content", None)  # empty if another key has the text
    if name != "content":
        seen[f"{name!r} read as 'content'"] += 1
    if isinstance(content, list | tuple):
        seen["content in parts, joined by line breaks"] += 1
    return texts[name]


def _text_of(content: Any, name: str, where: str) -> str:
    if isinstance(content, list | tuple):
        return "\n".join(text_of_part(part, where) for part in content if not _is_step_mark(part))
    if not isinstance(content, str):
        raise BadRecordError(f"{name} of {where} must be text, not {kind(content)}")
    return content


def _is_step_mark(part: Any) -> bool:
    """Whether the part is the AI SDK's mark between the steps of an answer."""
    return isinstance(part, Mapping) and part.get("type") == "step-start"


def text_of_part(part: Any, where: str) -> str:
    """The text of a part of a content. Raises BadRecordError for any other part: a call, an image, a thought."""
    if isinstance(part, str):
        return part
    named: Any = kind(part)
    if isinstance(part, Mapping):
        media = next((key for key in part if key in _NOT_TEXT and part[key]), None)
        named = part.get("type") or media or "unknown"
        for key in ("text", "refusal") if media is None and part.get("type") in _TEXT_PARTS else ():
            if isinstance(part.get(key), str):
                return str(part[key])
    raise BadRecordError(f"{where} holds a part of type {named}; only text can be used")


def _checked_content(content: Any, role: str, where: str, calls: bool, seen: Counter[str]) -> str:
    """Return the content; it may be empty, but may be missing only beside calls and from a tool."""
    if content is None and not calls and role != "tool":
        raise BadRecordError(f"content of {where} ({role}) is missing or null")
    if not (content or "").strip() and not calls:
        seen[f"empty content ({role})"] += 1
    return content or ""


def _calls(message: Message, where: str) -> list[ToolCall]:
    """Take the calls out of `message`, in the current form or the legacy one."""
    listed = decoded(message.pop("tool_calls", None), "tool_calls")
    legacy = decoded(message.pop("function_call", None), "function_call")
    if isinstance(listed, Mapping):
        listed = [listed]
    if listed is not None and not isinstance(listed, list | tuple):
        raise BadRecordError(f"tool_calls of {where} must be a list, not {kind(listed)}")
    calls = [normal_call(call, f"call {count} of {where}") for count, call in enumerate(listed or (), 1)]
    if not legacy:
        return calls
    legacy_call = normal_call(legacy, f"the call of {where}")
    if calls and _name_and_arguments(legacy_call) not in map(_name_and_arguments, calls):
        raise BadRecordError(f"{where} has tool_calls and a different function_call")
    return calls or [legacy_call]


def _name_and_arguments(call: Mapping[str, Any]) -> tuple[Any, Any]:
    return call["function"]["name"], call["function"]["arguments"]


def _calls_in(content: Any, where: str) -> list[ToolCall]:
    """The calls in the text of a turn of the role `function_call`."""
    try:
        value = json_text.loads(content or "")
    except ValueError as error:
        raise BadRecordError(f"the call in {where} {error}") from None
    calls = value if isinstance(value, list) else [value]
    return [normal_call(call, f"call {count} of {where}") for count, call in enumerate(calls, 1)]


def _function(function: Mapping[str, Any], where: str) -> dict[str, Any]:
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise BadRecordError(f"{where} has no function name")
    _refuse_unread_arguments(function, where)
    arguments = _arguments(function, name, where)
    others = {other: value for other, value in function.items() if other not in (*_ARGUMENT_KEYS, "name")}
    return _in_order(function, {"name": name, "arguments": dict(arguments), **others})


def _arguments(function: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """The arguments of a call, whatever their key. Raises BadRecordError if two keys hold different arguments."""
    arguments: Mapping[str, Any] = {}
    for key in _ARGUMENT_KEYS:
        value = function.get(key) or {}  # PHP writes an empty object as []
        if isinstance(value, str):
            value = _decoded_arguments(value, name, where)
        if not isinstance(value, Mapping):
            raise BadRecordError(f"the arguments of a call of {name} ({where}) must be an object, not {kind(value)}")
        if arguments and value and arguments != value:
            raise BadRecordError(f"a call of {name} ({where}) has arguments twice, and different ones in {key!r}")
        arguments = arguments or value
    return arguments


def _joined(inner: Mapping[str, Any], outside: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A function with the arguments that a log wrote beside it instead of inside it."""
    twice = next((key for key in outside if inner.get(key) and inner[key] != outside[key]), None)
    if twice is not None:
        raise BadRecordError(f"{where} has {twice!r} twice, with two values")
    return {**inner, **{key: value for key, value in outside.items() if not inner.get(key)}}


def _refuse_unread_arguments(function: Mapping[str, Any], where: str) -> None:
    """Refuse a call with an unknown key instead of arguments, which would be lost; a call without any is common."""
    if any(key in function for key in _ARGUMENT_KEYS):
        return
    other = next((key for key, value in function.items() if key not in _CALL_KEYS and value), None)
    if other is not None:
        raise BadRecordError(f"{where} has {other!r} but no 'arguments'; {did_you_mean(str(other), _ARGUMENT_KEYS)}")


def _decoded_arguments(text: str, name: str, where: str) -> Any:
    """Decode arguments once, as serving engines do; they also refuse text that is not JSON."""
    if not text.strip():
        return {}
    try:
        value = json_text.loads(text)
    except ValueError as error:
        raise BadRecordError(f"the arguments of a call of {name} ({where}) are text that {error}") from None
    return {} if value is None else value


def _tool(number: int, value: Any) -> Tool:
    if not isinstance(value, Mapping):
        raise BadRecordError(f"tool {number} is not of the form {_TOOL_SHAPE}")
    if value.get("type", "function") != "function":
        raise BadRecordError(f"tool {number} is of type {value['type']!r}; the form is {_TOOL_SHAPE}")
    value = {key: inner for key, inner in value.items() if inner is not None or key != "function"}
    function = value.get("function")
    bare = function is None and "name" in value
    if bare:  # OpenAI's other forms have no outer `function`, and Anthropic names the schema `input_schema`
        function = {("parameters" if key == "input_schema" else key): v for key, v in value.items() if key != "type"}
    if not isinstance(function, Mapping):
        raise BadRecordError(f"tool {number} has no 'function' object; the form is {_TOOL_SHAPE}")
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise BadRecordError(f"tool {number} has no function name")
    parameters = decoded(function.get("parameters"), "parameters")
    # OpenAI lets a function without arguments leave `parameters` out.
    if parameters is not None and not isinstance(parameters, Mapping):
        raise BadRecordError(f"parameters of tool {number} ({name}) must be a JSON schema object")
    described = {key: parameters if key == "parameters" else v for key, v in function.items()}
    if described.get("parameters", {}) is None:
        del described["parameters"]
    shell = {} if bare else dict(value)
    if json_text.too_deep([shell, described]):
        raise BadRecordError(f"tool {number} is nested too deeply")
    whole: Tool = _without_nulls({**({} if "type" in shell else {"type": "function"}), **shell, "function": described})
    return whole


def _without_nulls(schema: Any) -> Any:
    """A schema without keys that are null, which say nothing, but with all that is data."""
    if isinstance(schema, Mapping):
        return {
            key: inner if key in _DATA else _without_nulls(inner)
            for key, inner in schema.items()
            if inner is not None or key in _DATA
        }
    return [_without_nulls(inner) for inner in schema] if isinstance(schema, list | tuple) else schema


def decoded(value: Any, column: str) -> Any:
    """Decode `value` if it is a string of JSON, or of a list as Python prints it; None for a missing or blank value.

    CSV has only strings, which pandas writes as Python does, and many Parquet files keep nested columns as JSON.
    """
    if isinstance(value, float) and value != value:  # how pandas writes a missing value
        return None
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json_text.loads(value)
    except ValueError as error:
        if str(error).startswith(json_text.NO_JSON):
            with contextlib.suppress(ValueError):
                return python_text.loads(value)
        raise BadRecordError(f"{column!r} is a string that {error}") from None


def kind(value: Any) -> str:
    """The name of the type of `value` in JSON."""
    names = {bool: "true/false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
