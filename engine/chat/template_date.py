"""Pin the date in chat templates that write today's date, so that a prompt stays the same on every day.

Transformers gives every chat template `strftime_now`, and those of Llama 3.2, Mistral and gpt-oss write the date with
it. A capture of such a target would change every day, and a draft would be measured on other prompts than it learnt
from. The date is an attribute of the loaded tokenizer (`target.template_date`), and everything that renders a template
calls `apply_template`, which writes it. Other templates are rendered unchanged.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.chat.prompt import Message, Tool
from engine.config.schema import RUN_DATE
from engine.errors import DraftbenchError
from engine.untrusted.time_limit import time_limit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DATE = "_draftbench_date"  # attributes of a tokenizer
_PROBED = "_draftbench_probed"
_PROBES: tuple[list[Message], ...] = (
    [{"role": "user", "content": "a"}],
    [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ],
)
_TOOL: Tool = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
# Of strftime: a letter, and what may come before it in a format (%-d, %10Y, %Od).
_DIRECTIVE = re.compile(r"%[-_0^#]*\d*[EO:]*[a-zA-Z]")
_PLAIN = [f"%{flag}{letter}" for letter in string.ascii_letters for flag in ("", "-")]
_DRAWS = re.compile(r"\|\s*random\b|\blipsum\s*\(")  # also where no small conversation comes to it
_PERCENT = "\ue000"  # in place of %%, which no directive begins with
_SECONDS = 4.0  # rendering takes milliseconds; a template that passed `check_template` may still loop over a prompt
_TRIES = 8  # a template that picks one of two words at random picks the same one each time once in 128
# They differ in every part that a format can name.
_TWO_DATES = (datetime.datetime(2001, 2, 3, 4, 5, 6), datetime.datetime(2031, 11, 28, 17, 48, 59))


def pin_date(tokenizer: Any, date: str | None) -> None:
    """Set the date of the tokenizer's template, in ISO 8601 (with `run:` before it if the run set it); None: today."""
    pinned = datetime.datetime.now() if date is None else datetime.datetime.fromisoformat(date.removeprefix(RUN_DATE))
    setattr(tokenizer, _DATE, pinned)


def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    **more: Any,
) -> str:
    """Render a conversation with the tokenizer's chat template and the pinned date. Raises what templates raise."""
    if getattr(tokenizer, _DATE, None) is None:
        pin_date(tokenizer, None)
    return _applied(tokenizer, messages, tools, getattr(tokenizer, _DATE), **more)


def reads_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template can write the day: it names the clock, be it for long chats or certain content alone."""
    return "strftime_now" in str(tokenizer.chat_template)


def clock_identity(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The date for a hash of what depends on the template; empty if small conversations are the same on every day.

    So captures whose template writes the date in other conversations alone keep their address, which has the prompts'
    ids in it.
    """
    probed = ([text(date) for date in _TWO_DATES] for text in _probes(tokenizer))
    if not (reads_clock(tokenizer) and any(first != second for first, second in probed)):
        return {}
    if getattr(tokenizer, _DATE, None) is None:
        pin_date(tokenizer, None)
    return {"date": getattr(tokenizer, _DATE).date().isoformat()}


def check_steady(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a template that can render the same conversation in more than one way, such as one with random words."""
    if getattr(tokenizer, _PROBED, None) == tokenizer.chat_template:
        return
    is_random = bool(_DRAWS.search(str(tokenizer.chat_template))) or any(
        len({text(_TWO_DATES[0]) for _ in range(_TRIES)}) > 1 for text in _probes(tokenizer)
    )
    if is_random:
        raise DraftbenchError(
            "the chat template can write the same conversation in more than one way",
            "it is random, so a draft would be measured on other prompts than it learnt from",
            "remove the random parts (`random`, `lipsum`) from the chat template beside the tokenizer",
        )
    setattr(tokenizer, _PROBED, tokenizer.chat_template)


def _probes(tokenizer: PreTrainedTokenizerBase) -> list[Callable[[datetime.datetime], str | None]]:
    """Functions from a date to the text of a small conversation; None if the template refuses it."""

    def probe(messages: list[Message], tools: Sequence[Mapping[str, Any]]) -> Callable[[datetime.datetime], str | None]:
        def text(date: datetime.datetime) -> str | None:
            with contextlib.suppress(Exception):  # `render` reports it for a real prompt
                return _applied(tokenizer, messages, tools, date, add_generation_prompt=True)
            return None

        return text

    return [probe(messages, tools) for messages in _PROBES for tools in ((), (_TOOL,))]


def _applied(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    date: datetime.datetime,
    **more: Any,
) -> str:
    given = [dict(tool) for tool in tools] or None
    if reads_clock(tokenizer):
        more["chat_template"] = _dated(str(tokenizer.get_chat_template(None, given)), date)
    with time_limit(_SECONDS):
        return str(
            tokenizer.apply_chat_template([dict(message) for message in messages], tools=given, tokenize=False, **more)
        )


def _dated(template: str, date: datetime.datetime) -> str:
    """The template with a `strftime_now` of its own, which takes precedence over Transformers' global.

    A function cannot be passed: arguments of a template become plain data. A macro can replace the directives in a
    format by the parts of the date.
    """
    written = {name: date.strftime(name) for name in dict.fromkeys([*_DIRECTIVE.findall(template), *_PLAIN])}
    parts = {name: text for name, text in written.items() if text != name}
    # A loop, since Jinja takes a third of a second to compile a hundred filters one after another.
    return (
        f"{{%- macro strftime_now(format) -%}}{{%- set date = namespace(text=format | replace('%%', {_PERCENT!r})) -%}}"
        f"{{%- for name, part in {parts!r}.items() -%}}{{%- set date.text = date.text | replace(name, part) -%}}"
        f"{{%- endfor -%}}{{{{ date.text | replace({_PERCENT!r}, '%') }}}}{{%- endmacro -%}}{template}"
    )
