"""Determine what ends a turn of a model: one rule for capture, served text, tuning and the checks before a start.

There are two sources, which need not agree. The model names ids that end a text: `eos_token_id` of its generation
settings and its tokenizer's end-of-sequence token. Its chat template writes a mark after each answer, and a model that
was tuned with that template writes the mark, whatever the settings of its base still say (llama3 #104). Both kinds
stop an answer here. A finished answer ends with the template's mark.

The mark is the first token after an answer that is not text: blanks may come before it (Mistral), blanks and further
marks after it (ChatML, Phi-3). After a function call a template may write another mark (GPT-OSS, FunctionGemma).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.chat.template_date import apply_template
from engine.chat.token_ids import token_ids
from engine.errors import DraftbenchError, boundary

_ANSWER, _NEXT = "draftbench answer", "draftbench question"
_ASKED = {"role": "user", "content": "a"}
_TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "",
        "parameters": {"type": "object", "properties": {"at": {"type": "string", "description": ""}}},
    },
}
_CLOSES_CALL = re.compile(r"^\W*/|end.*call|call.*end", re.IGNORECASE)  # </tool_call>: more may follow it
_SHOWN_CHARACTERS = 40

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Mark:
    """How a template ends an answer."""

    id: int | None = None
    """The token that ends the turn; None if the template writes nothing there, or no single token."""
    before: str = ""
    """The text between the answer and `id`."""
    written: str | None = ""
    """Everything that the template writes after an answer; None if it cannot write one."""
    is_text: bool = False
    """Whether `id` is ordinary text, which an answer might contain."""


@dataclass(frozen=True)
class TemplateMarks:
    """The marks of a chat template."""

    turn: Mark = Mark()
    """After an answer."""
    call: int | None = None
    """After a function call."""
    next_turn: int | None = None
    """The special token that opens the turn after an answer, if answers have no mark."""


@dataclass(frozen=True)
class Turns:
    """What ends an answer of a model."""

    declared: frozenset[int]
    """Ids of the generation settings and the tokenizer, at which other engines stop."""
    eos: int | None
    marks: TemplateMarks

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        return self.declared | {i for i in (self.marks.turn.id, self.marks.call) if i is not None}

    @property
    def end(self) -> int:
        """The id that a finished answer ends with.

        It is the template's mark; without one the token that opens the next turn, if the model's settings name it
        (GLM-4); else the end of sequence. Raises DraftbenchError if there is none of these.
        """
        if self.marks.turn.id is not None:
            return self.marks.turn.id
        if self.next_turn_ends is not None:
            return self.next_turn_ends
        if self.eos is not None:
            return self.eos
        if self.declared:
            return min(self.declared)
        raise DraftbenchError(
            "nothing ends an answer of this model",
            "its chat template writes no mark after an answer, and neither its generation settings nor its tokenizer "
            "name an end of sequence",
            "name one as eos_token_id in the target's generation_config.json, or as eos_token in tokenizer_config.json",
        )

    @property
    def ends(self) -> frozenset[int]:
        """Every id that ends an answer, `end` among them. Raises as `end`."""
        return self.stop_ids | {self.end}

    @property
    def next_turn_ends(self) -> int | None:
        """The id that opens the next turn, if it is declared as an end and answers have no mark."""
        return self.marks.next_turn if self.marks.next_turn in self.declared else None

    @property
    def before_end(self) -> str:
        """The text that the template writes between an answer and its mark."""
        return self.marks.turn.before if self.marks.turn.id is not None else ""

    def stops_identity(self) -> dict[str, Any]:
        """The stop ids for a capture's address if the template adds some to the declared ones; else empty.

        So captures of most models keep the address that they had before templates were considered.
        """
        return {"stop_ids": sorted(self.stop_ids)} if self.stop_ids != self.declared else {}

    def end_identity(self) -> dict[str, Any]:
        """As `stops_identity`, for text whose end is added here: also the end, if it is not the usual one."""
        mark = self.marks.turn
        first = mark.id is not None and not mark.before
        usual = first if mark.written else not mark.written and self.end == self.eos
        return self.stops_identity() | ({} if usual else {"end_of_turn": self.end})


def turns_of(tokenizer: Any, generation_config: Any = None) -> Turns:
    """Determine what ends a turn from a tokenizer with its chat template and the model's generation settings, if given.

    A template that cannot be rendered has no mark.
    """
    return Turns(declared_ids(tokenizer, generation_config), tokenizer.eos_token_id, template_marks(tokenizer))


def declared_ids(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """The ids that the generation settings and the tokenizer name as the end of a text."""
    return frozenset(_ids([getattr(generation_config, "eos_token_id", None), tokenizer.eos_token_id]))


def until_stop(token_ids: Sequence[int], stop_ids: Collection[int]) -> list[int]:
    """The tokens up to the first that ends an answer, that one included."""
    end = next((i for i, token in enumerate(token_ids) if token in stop_ids), len(token_ids) - 1)
    return list(token_ids[: end + 1])


def split_at_end(tokenizer: Any, text: str, stop_ids: Collection[int]) -> tuple[str, str]:
    """The text before the first token that ends an answer, and the text after it; all of it and "" if there is none."""
    fast = bool(getattr(tokenizer, "is_fast", False))
    made = tokenizer(text, add_special_tokens=False, **({"return_offsets_mapping": True} if fast else {}))
    ids = made["input_ids"]
    at = next((i for i, token in enumerate(ids) if token in stop_ids), None)
    if at is None:
        return text, ""
    if fast:
        first, last = made["offset_mapping"][at]
        return text[:first], text[last:]
    return str(tokenizer.decode(ids[:at])), str(tokenizer.decode(ids[at + 1 :]))


def template_marks(tokenizer: Any) -> TemplateMarks:
    """Read the marks of the tokenizer's chat template; none if it has no template."""
    if not getattr(tokenizer, "chat_template", None):
        return TemplateMarks()
    answered = [_ASKED, {"role": "assistant", "content": _ANSWER}]
    mark, following = _mark(tokenizer, _after_answer(tokenizer, answered)), None
    if mark.id is None:
        after = _after_answer(tokenizer, [*answered, {"role": "user", "content": _NEXT}]) or ""
        following = first_mark(tokenizer, _split(tokenizer, after.partition(_NEXT)[0]))[1]
    return TemplateMarks(mark, _call_mark(tokenizer), following)


def first_mark(tokenizer: Any, ids: Sequence[int]) -> tuple[list[int], int | None]:
    """Split ids at the first added token that is not blank: the ids before it, and its id or None."""
    added = tokenizer.added_tokens_decoder
    for index, token in enumerate(ids):
        if token in added and str(added[token].content).strip():
            return list(ids[:index]), token
    return list(ids), None


def _mark(tokenizer: Any, written: str | None) -> Mark:
    ids = _split(tokenizer, written or "")
    text, mark = first_mark(tokenizer, ids)
    if written is not None and mark is not None:
        mark_text = str(tokenizer.added_tokens_decoder[mark].content)
        before = written.partition(mark_text)[0] if mark_text in written else str(tokenizer.decode(text))
        return Mark(mark, before, written)
    visible = [bool(str(tokenizer.decode([token])).strip()) for token in ids]
    if visible.count(True) == 1 and visible[0]:  # a single token of plain text, right after the answer
        return Mark(ids[0], "", written, is_text=True)
    return Mark(written=written)


def _call_mark(tokenizer: Any) -> int | None:
    """The last token of a turn with a function call, unless it only closes the call itself."""
    for arguments in ({"at": _ANSWER}, json.dumps({"at": _ANSWER})):  # templates accept one form or the other
        call = {"id": "call00000", "type": "function", "function": {"name": "look", "arguments": arguments}}
        written = _after_answer(
            tokenizer, [_ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}], tools=[_TOOL]
        )
        if written:
            mark = first_mark(tokenizer, _split(tokenizer, written.rstrip())[-1:])[1]
            closes = mark is None or _CLOSES_CALL.search(str(tokenizer.added_tokens_decoder[mark].content))
            return None if closes else mark
    return None


def _after_answer(tokenizer: Any, turns: Sequence[Mapping[str, Any]], **more: Any) -> str | None:
    """The text that the template writes after an answer; None if it cannot render these turns or drops the answer."""
    try:
        text = apply_template(tokenizer, list(turns), **more)
    except Exception:  # a template raises whatever it likes; `render` reports it where it matters
        return None
    return text.rpartition(_ANSWER)[2] if _ANSWER in text else None


def _split(tokenizer: Any, text: str) -> list[int]:
    return token_ids(tokenizer, text, "what the chat template writes after an answer") if text else []


def _ids(named: Any) -> list[int]:
    """The ids in a setting: a number, a list, nothing, or -1 for none."""
    if isinstance(named, list | tuple):
        return [token for each in named for token in _ids(each)]
    return [named] if isinstance(named, int) and not isinstance(named, bool) and named >= 0 else []


def check_turns(tokenizer: Any, generation_config: Any, vocab_rows: int | None = None) -> tuple[State, str, str]:
    """Check which ids stop an answer: the state of the check, a message, and what to do.

    It is a warning if another engine would not stop there, if an answer could not contain a text that it may need, or
    if the template ends its turns without a mark that could stop one.
    """
    turns = turns_of(tokenizer, generation_config)
    names = _listed(tokenizer, sorted(turns.stop_ids))
    message = f"an answer stops at {names}" if names else "no id stops an answer: each runs to max_new_tokens"
    doubts = [*_doubts(tokenizer, turns), *_out_of_reach(tokenizer, turns.stop_ids, vocab_rows)]
    if not names:
        doubts.append(("", "name the mark of the template as eos_token_id in the target's generation_config.json"))
    if not doubts:
        return "ok", message, ""
    return "warning", "; ".join([message, *(doubt for doubt, _ in doubts if doubt)]), doubts[0][1]


def check_generation(folder: Path) -> None:
    """Refuse unreadable generation settings: Transformers would ignore them and run past the end of answers."""
    path = folder / "generation_config.json"
    if not path.exists():
        return
    with boundary(f"the generation settings of {folder} cannot be read", "correct or remove generation_config.json"):
        named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    ids = named if isinstance(named, list) else [] if named is None else [named]
    if any(isinstance(token, bool) or not isinstance(token, int) for token in ids):
        raise DraftbenchError(
            f"{path} names {str(named)[:60]!r} as eos_token_id",
            "an id is a whole number; anything else would end no answer",
            "correct it",
        )


def check_folder(folder: Path, tokenizer: Any, config: Any) -> tuple[State, str, str]:
    """As `check_turns`, for a model whose weights are not loaded, with the generation settings in its folder."""
    from transformers import GenerationConfig

    check_generation(folder)
    with boundary(f"the generation settings of {folder} cannot be read", "correct or remove generation_config.json"):
        if (folder / "generation_config.json").exists():
            settings = GenerationConfig.from_pretrained(folder)
        else:
            settings = GenerationConfig.from_model_config(config)
    return check_turns(tokenizer, settings, getattr(config.get_text_config(), "vocab_size", None))


def _doubts(tokenizer: Any, turns: Turns) -> list[tuple[str, str]]:
    """Possible problems with these ends, each with what to do."""
    mark, doubts = turns.marks.turn, []
    undeclared = sorted(turns.stop_ids - turns.declared)
    if undeclared:
        doubts.append(
            (
                f"the chat template ends turns with {_listed(tokenizer, undeclared)}, which the model's own settings "
                "do not name: here it stops an answer, other engines run on",
                f"serve the target with eos_token_id {sorted(turns.stop_ids)} in its generation_config.json",
            )
        )
    texts = [token for token in sorted(turns.stop_ids) if token not in tokenizer.added_tokens_decoder]
    if texts:
        doubts.append(
            (
                f"{_listed(tokenizer, texts)} is ordinary text: an answer that contains it ends there",
                "check eos_token_id of the target's generation_config.json and the end of a turn in its chat template",
            )
        )
    if mark.id is None and turns.next_turn_ends is None and turns.declared:
        doubts.append(
            (
                f"the chat template {_without_mark(mark)}, so only the end of sequence stops an answer",
                "use the chat template that the target was tuned with, and a tokenizer that has its marks as tokens",
            )
        )
    elif mark.before.strip():
        doubts.append(
            (
                f"the chat template writes {mark.before[:_SHOWN_CHARACTERS]!r} before the mark, as part of the answer",
                "answers will contain it; if the served model does not write it, correct the chat template",
            )
        )
    return doubts


def _without_mark(mark: Mark) -> str:
    if mark.written is None:
        return "cannot write an answer"
    if not mark.written.strip():
        return f"ends turns with {mark.written!r}" if mark.written else "ends turns with nothing"
    return f"ends turns with {mark.written[:_SHOWN_CHARACTERS]!r}, which is not a single token"


def _out_of_reach(tokenizer: Any, stop_ids: Collection[int], rows: int | None) -> list[tuple[str, str]]:
    beyond = [token for token in sorted(stop_ids) if rows is not None and token >= rows]
    if not beyond:
        return []
    listed = _listed(tokenizer, beyond)
    return [
        (f"the model has no row for {listed} and can never write it", "use the tokenizer that belongs to the model")
    ]


def _listed(tokenizer: Any, tokens: Collection[int]) -> str:
    return ", ".join(f"{token} {str(tokenizer.convert_ids_to_tokens(token))[:_SHOWN_CHARACTERS]!r}" for token in tokens)
