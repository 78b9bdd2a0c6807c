"""Render prompts as the token ids that the target sees, with the tokenizer's own chat template.

Capture, training and measurement use the same function, so that the draft never learns from one form of a prompt and
is measured on another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.chat.prompt import Message, Prompt, Tool
from engine.chat.template_date import apply_template, check_steady
from engine.chat.token_ids import token_ids
from engine.chat.turns import turns_of
from engine.errors import Cancelled, DraftbenchError, first_line
from engine.fileio import content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Part of `template_hash`: a change here changes the address of every capture.
PLAIN_TOOLS_FORM = (
    "You can call these functions:\n"
    "{schemas}\n"
    'To call one, answer with nothing but a JSON object: {{"name": <function name>, "arguments": {{<name>: <value>}}}}'
)
_MIN_UNIQUE_CHARACTERS = 12  # shorter text may also be part of another message, or of a mark
_MAX_SHOWN_ROLES = 8


def render(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    *,
    context_tokens: int | None,
    max_new_tokens: int,
    rows: int | None = None,
) -> list[int]:
    """Return the token ids of `prompt`, including the header of the assistant's answer if the template writes it when
    it is asked to (`missing_header`).

    Tools are given to the template or, if it ignores them, put into the system message by `tools_as_system`. Special
    tokens in a message become special tokens, as in vLLM and Transformers by default. Raises DraftbenchError if the
    tokenizer has no chat template or no token for a part of the text, the template refuses the prompt or drops a tool
    call, the ids do not begin with exactly one beginning-of-sequence token where the tokenizer uses one, an id is
    beyond the target's `rows` of embeddings (None: unknown), or an answer of `max_new_tokens` would not fit after the
    prompt into `context_tokens` (None: no limit).
    """
    # The template has written the special tokens, so none are added.
    ids = token_ids(tokenizer, prompt_text(tokenizer, prompt), f"prompt {prompt.id!r}")
    check_rows(tokenizer, prompt, ids, rows)
    _check_beginning(tokenizer, prompt, ids)
    _check_length(prompt, len(ids), context_tokens, max_new_tokens)
    return ids


def measurable(
    tokenizer: PreTrainedTokenizerBase,
    heldout: Sequence[Prompt],
    limit: int | None,
    context_tokens: int | None,
    max_new_tokens: int,
) -> list[Prompt]:
    """Drop held-out prompts over `limit` tokens after which an answer does not fit into the context."""
    if limit is None or context_tokens is None:
        return list(heldout)
    most = max(limit, context_tokens - max_new_tokens)
    return [p for p in heldout if len(render(tokenizer, p, context_tokens=None, max_new_tokens=0)) <= most]


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex sha256 of the chat template and of the plain form of tools, which together turn messages into text."""
    return content_hash({"template": _require_template(tokenizer), "plain_tools": PLAIN_TOOLS_FORM})


def missing_header(tokenizer: PreTrainedTokenizerBase) -> str:
    """The header that the template writes before an answer, but not when it is asked for one; "" if nothing is missing.

    Such a template ignores `add_generation_prompt`: the prompt ends after the user's turn. Blanks are no header
    (Mistral), and what only some answers have, such as an empty thought, does not count where the template reads the
    flag.
    """
    asked, answer = [{"role": "user", "content": "a"}], "draftbench answer"
    try:
        with_flag, without = (apply_template(tokenizer, asked, add_generation_prompt=flag) for flag in (True, False))
        answered = apply_template(tokenizer, [*asked, {"role": "assistant", "content": answer}])
    except Exception:  # a template raises whatever it likes; `render` reports it where it matters
        return ""
    before, found, _ = answered.rpartition(answer)
    ignored = with_flag == without and bool(found) and before.startswith(without)
    return before[len(without) :] if ignored and before[len(without) :].strip() else ""


def check_rows(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, ids: Sequence[int], rows: int | None) -> None:
    """Raise DraftbenchError for an id that the target has no embedding for."""
    beyond = [i for i in ids if rows is not None and i >= rows]
    if beyond:
        raise DraftbenchError(
            f"prompt {prompt.id!r} contains {tokenizer.convert_ids_to_tokens(beyond[0])!r}, which is id {beyond[0]:,}, "
            f"but the target has {rows:,} embeddings",
            "the tokenizer has tokens that the model was never resized for, so it cannot read them",
            "take the token out of the prompt, or use the weights that were resized for this tokenizer",
        )


def tools_as_system(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Describe the tools in the system message, for templates without tools.

    The form is `PLAIN_TOOLS_FORM`: a heading, one JSON object per line with the function's name, description and
    parameters, and how to call one. It is appended to a first system message after an empty line; otherwise it becomes
    the first message, which replaces a default system message of the template.
    """
    schemas = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    described = PLAIN_TOOLS_FORM.format(schemas=schemas)
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": described}, *messages]
    merged = {**messages[0], "content": f"{messages[0]['content']}\n\n{described}"}
    return [merged, *messages[1:]]


def conversation(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[list[Message], tuple[Tool, ...]]:
    """The messages and tools that are given to the template, and must be sent to a server for the same text.

    Tools that the template ignores are in the system message, and not among the tools.
    """
    _require_template(tokenizer)
    messages, tools = list(prompt.messages), prompt.tools
    if not tools:
        return messages, ()
    text, without = (_apply_template(tokenizer, prompt.id, messages, given) for given in (tools, ()))
    return (tools_as_system(messages, tools), ()) if text == without else (messages, tools)


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """The text that the target reads, with its special tokens and the header of the answer. Raises as `render`."""
    messages, tools = conversation(tokenizer, prompt)
    text = _apply_template(tokenizer, prompt.id, messages, tools)
    _check_messages(tokenizer, prompt, messages, tools, text)
    if any(message.get("tool_calls") for message in messages):
        _check_tool_calls(tokenizer, prompt.id, messages, tools, text)
    return text


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that a finished answer ends with (`engine.chat.turns`), as far as the tokenizer alone defines it."""
    return turns_of(tokenizer).end


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, prompt_id: str, messages: list[Message], tools: Sequence[Tool]
) -> str:
    try:
        return apply_template(tokenizer, messages, tools, add_generation_prompt=True)
    except (DraftbenchError, Cancelled, MemoryError):
        raise
    # Templates raise TemplateError on purpose, and whatever Python raises when a field is missing or of another type.
    except Exception as error:
        roles = ", ".join(message["role"] for message in messages[:_MAX_SHOWN_ROLES])
        roles += f" and {len(messages) - _MAX_SHOWN_ROLES} more" if len(messages) > _MAX_SHOWN_ROLES else ""
        raise DraftbenchError(
            f"the chat template cannot render prompt {prompt_id!r} (roles: {roles}): {first_line(error)}",
            "the target would not see such a conversation in service either",
            "change or remove the prompt: some models have no system or tool role, or need user and assistant in turn",
        ) from error


def _require_template(tokenizer: PreTrainedTokenizerBase) -> Any:
    template = tokenizer.chat_template
    if not template:
        raise DraftbenchError(
            f"the tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no chat template",
            "the form of a conversation for a base model cannot be guessed, and a wrong guess makes every rate wrong",
            "use the instruction-tuned model, or put the chat_template.jinja that the model is served with "
            "beside its tokenizer, also for prompts that are plain text",
        )
    check_steady(tokenizer)
    return template


def _check_beginning(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, ids: Sequence[int]) -> None:
    """Refuse ids that do not start with exactly one beginning-of-sequence token, for tokenizers that use one.

    Only the start counts: the bos of ChatML models opens every turn. A tokenizer that has a bos but writes it neither
    before plain text nor in its template does not use it.
    """
    bos = tokenizer.bos_token_id
    if bos is None:
        return
    if list(ids[:2]) == [bos, bos]:
        raise DraftbenchError(
            f"prompt {prompt.id!r} begins with two {tokenizer.bos_token!r} tokens",
            "the target was trained with one; a second changes every probability after it",
            "write it once in the chat template, and not in the text of a message",
        )
    if list(ids[:1]) != [bos] and list(tokenizer("a")["input_ids"][:1]) == [bos]:
        raise DraftbenchError(
            f"prompt {prompt.id!r} begins without {tokenizer.bos_token!r}, which the tokenizer puts before plain text",
            "the chat template leaves it out, so the target would see a beginning that it was not trained with",
            "add {{ bos_token }} at the start of the chat template",
        )


def _check_length(prompt: Prompt, prompt_tokens: int, context_tokens: int | None, max_new_tokens: int) -> None:
    if context_tokens is None or prompt_tokens <= context_tokens - max_new_tokens:
        return
    raise DraftbenchError(
        f"prompt {prompt.id!r} has {prompt_tokens} tokens; at most {max(context_tokens - max_new_tokens, 0)} fit "
        f"(context {context_tokens} minus max_new_tokens {max_new_tokens})",
        "the answer would run past the model's context",
        "leave long prompts out with prompts.max_prompt_tokens, or lower max_new_tokens",
    )


def _check_messages(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, messages: list[Message], tools: Sequence[Tool], text: str
) -> None:
    """Refuse a template that drops a message: another text in its place would give the same prompt.

    Some templates have no system message, some keep only the last question, and those for images iterate over the
    letters of a text as if they were parts. Many drop text beside calls and earlier reasoning on purpose.
    """
    added = len(messages) - len(prompt.messages)  # 1 where the tools became a system message of their own
    for number in _unseen(tokenizer, prompt.id, messages, tools, text):
        message = messages[number]
        others = [*messages[:number], {**message, "content": _another(number)}, *messages[number + 1 :]]
        try:
            dropped = text == _apply_template(tokenizer, prompt.id, others, tools)
        except DraftbenchError:
            continue  # the template does read the message
        if dropped and number < added:
            raise DraftbenchError(
                f"the chat template drops the tools of prompt {prompt.id!r}: it has no place for them, and none for "
                "the system message that describes them",
                "the target would answer without knowing its tools",
                "use a target whose template has tools, or take them out of the prompt",
            )
        if dropped:
            raise DraftbenchError(
                f"the chat template drops message {number + 1 - added} ({message['role']}) of prompt {prompt.id!r}",
                "the conversation would reach the target with a part missing",
                "take the message out of the prompt, or put the chat_template.jinja that the model is served with, "
                "one that reads content as text, beside its tokenizer",
            )


def _unseen(
    tokenizer: PreTrainedTokenizerBase, prompt_id: str, messages: list[Message], tools: Sequence[Tool], text: str
) -> list[int]:
    """The indices of messages whose text may not be in the prompt. One more rendering decides most of them."""
    texts = [
        "" if message.get("tool_calls") else message["content"].rpartition("</think>")[2].strip()
        for message in messages
    ]
    doubtful = [i for i, own in enumerate(texts) if own and (len(own) < _MIN_UNIQUE_CHARACTERS or own not in text)]
    if not doubtful:
        return []
    others = [{**m, "content": _another(n)} if n in doubtful else m for n, m in enumerate(messages)]
    try:
        marked = _apply_template(tokenizer, prompt_id, others, tools)
    except DraftbenchError:
        return doubtful
    return [number for number in doubtful if _another(number) not in marked]


def _another(number: int) -> str:
    return f"draftbench: another text in place of message {number + 1}."


def _check_tool_calls(
    tokenizer: PreTrainedTokenizerBase, prompt_id: str, messages: list[Message], tools: Sequence[Tool], text: str
) -> None:
    """Refuse a template that drops earlier tool calls, so that a tool's answer would follow nothing."""
    without = [{"content": "", **{key: message[key] for key in message if key != "tool_calls"}} for message in messages]
    try:
        dropped = text == _apply_template(tokenizer, prompt_id, without, tools)
    except DraftbenchError:
        return  # a template that fails without the calls does read them
    if dropped:
        raise DraftbenchError(
            f"the chat template drops the tool calls of prompt {prompt_id!r}",
            "the conversation would reach the target with a part missing",
            "write the call into the assistant's content, or use a target whose template has tool calls",
        )
