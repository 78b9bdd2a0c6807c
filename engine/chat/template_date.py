"""Templates that write today's date: the date is pinned, so that tomorrow's prompt is today's.

Transformers gives every chat template `strftime_now`, and Llama 3.2's, Mistral's and gpt-oss' write the date with it.
A capture of such a target would be another each day, and a draft be measured on other prompts than it learnt from.
The date belongs to the tokenizer once it is loaded (`target.template_date`); all that render a template go through
`apply_template`, which writes it. Other templates render as ever.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.config.schema import RUN_DATE
from engine.errors import DraftbenchError
from engine.untrusted.time_limit import time_limit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DATE = "_draftbench_date"  # attributes of a tokenizer
_PROBED = "_draftbench_probed"
_PROBES: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": "a"}],
    [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ],
)
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
# Of strftime: a letter, and what may come before it in a format (%-d, %10Y, %Od).
_DIRECTIVE = re.compile(r"%[-_0^#]*\d*[EO:]*[a-zA-Z]")
_PLAIN = [f"%{flag}{letter}" for letter in string.ascii_letters for flag in ("", "-")]
_PERCENT = "\ue000"  # in place of %%, which no directive begins with
_SECONDS = 4.0  # rendering takes milliseconds; a template that passed `check_template` may still loop over a prompt
_TRIES = 8  # a template that draws one of two words writes the same one each time once in 128
# They differ in every part that a format can name.
_TWO_DATES = (datetime.datetime(2001, 2, 3, 4, 5, 6), datetime.datetime(2031, 11, 28, 17, 48, 59))


def pin_date(tokenizer: Any, date: str | None) -> None:
    """Give the tokenizer's template a date, ISO 8601 (`run:` before it says who set it); None: today's, from now on."""
    found = datetime.datetime.now() if date is None else datetime.datetime.fromisoformat(date.removeprefix(RUN_DATE))
    setattr(tokenizer, _DATE, found)


def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    **more: Any,
) -> str:
    """The text of a conversation by the tokenizer's chat template, with the pinned date. Raises what templates raise."""
    if getattr(tokenizer, _DATE, None) is None:
        pin_date(tokenizer, None)
    return _applied(tokenizer, messages, tools, getattr(tokenizer, _DATE), **more)


def reads_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template writes something else on another day."""
    return bool(_has_clock(tokenizer)) and any(
        texts[0] != texts[1] for texts in ([text(date) for date in _TWO_DATES] for text in _probes(tokenizer))
    )


def clock_identity(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What the date adds to the identity of what is made with the template: nothing, if it reads no clock."""
    if not reads_clock(tokenizer):
        return {}
    if getattr(tokenizer, _DATE, None) is None:
        pin_date(tokenizer, None)
    return {"date": getattr(tokenizer, _DATE).date().isoformat()}


def check_steady(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a template that writes the same conversation in more than one way, such as one that draws words."""
    if getattr(tokenizer, _PROBED, None) == tokenizer.chat_template:
        return
    for text in _probes(tokenizer):
        if len({text(_TWO_DATES[0]) for _ in range(_TRIES)}) > 1:
            raise DraftbenchError(
                "the chat template writes the same conversation in more than one way",
                "it draws at random, so a draft would be measured on other prompts than it learnt from",
                "take what draws (`random`, `lipsum`) out of the chat template beside the tokenizer",
            )
    setattr(tokenizer, _PROBED, tokenizer.chat_template)


def _probes(tokenizer: PreTrainedTokenizerBase) -> list[Callable[[datetime.datetime], str | None]]:
    """Functions from a date to the text of a small conversation; None where the template refuses it."""

    def probe(
        messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> Callable[[datetime.datetime], str | None]:
        def text(date: datetime.datetime) -> str | None:
            with contextlib.suppress(Exception):  # it is refused in words where it is a prompt
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
    if _has_clock(tokenizer):
        more["chat_template"] = _dated(str(tokenizer.get_chat_template(None, given)), date)
    with time_limit(_SECONDS):
        return str(
            tokenizer.apply_chat_template([dict(message) for message in messages], tools=given, tokenize=False, **more)
        )


def _dated(template: str, date: datetime.datetime) -> str:
    """The template with a `strftime_now` of its own, which comes before Transformers' global.

    A function cannot be handed in: what a call hands to a template is made plain data. A macro can write the parts of
    the date in the place of their names in a format.
    """
    written = {name: date.strftime(name) for name in dict.fromkeys([*_DIRECTIVE.findall(template), *_PLAIN])}
    parts = {name: text for name, text in written.items() if text != name}
    # A loop, since Jinja takes a third of a second to compile a hundred filters one after another.
    return (
        f"{{%- macro strftime_now(format) -%}}{{%- set date = namespace(text=format | replace('%%', {_PERCENT!r})) -%}}"
        f"{{%- for name, part in {parts!r}.items() -%}}{{%- set date.text = date.text | replace(name, part) -%}}"
        f"{{%- endfor -%}}{{{{ date.text | replace({_PERCENT!r}, '%') }}}}{{%- endmacro -%}}{template}"
    )


def _has_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    return "strftime_now" in str(tokenizer.chat_template)
