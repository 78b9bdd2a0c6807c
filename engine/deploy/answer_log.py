"""Answers of a server as they come, a JSON line each, so that an interrupted measurement goes on where it stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from engine.deploy.serving import Asked, ServedAnswer
from engine.fileio import append_line, content_hash, disk_errors


@dataclass(frozen=True)
class _Line:
    key: str
    answer: ServedAnswer


_LINE = TypeAdapter(_Line)


class AnswerLog:
    """Answers by what was asked of which server. Without a path nothing is kept."""

    def __init__(self, path: Path | None, conditions: object) -> None:
        """`conditions`: all that an answer depends on besides its prompt, as plain values; others are left alone."""
        self._path, self._conditions = path, content_hash(conditions)
        self._answers = dict(_read(path)) if path is not None and path.is_file() else {}

    def get(self, served: str, asked: Asked, *, timed: bool) -> ServedAnswer | None:
        """The answer that was kept, or None. `served`: the rule of proposing, or that there was no draft."""
        return self._answers.get(self._key(served, asked, timed))

    def add(self, served: str, asked: Asked, answer: ServedAnswer, *, timed: bool) -> None:
        """Keep an answer."""
        key = self._key(served, asked, timed)
        self._answers[key] = answer
        if self._path is None:
            return
        with disk_errors(self._path):
            append_line(self._path, {"key": key, "answer": _plain(answer)})

    def _key(self, served: str, asked: Asked, timed: bool) -> str:
        prompt = {**asdict(asked), "prompt_ids": list(asked.prompt_ids)}
        return content_hash([self._conditions, served, prompt, timed])


def _plain(answer: ServedAnswer) -> dict[str, object]:
    totals = answer.totals.document() if answer.totals is not None else None
    return {**vars(answer), "totals": totals}


def _read(path: Path) -> Iterable[tuple[str, ServedAnswer]]:
    """The lines of a log that are whole. One that a stop cut off is only asked again."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValidationError):
            parsed = _LINE.validate_json(line)
            yield parsed.key, parsed.answer
