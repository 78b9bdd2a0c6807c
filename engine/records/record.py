"""What every document of a run shares: a typed model, a schema number, and a reader that no damage gets past.

A document is JSON that we wrote, perhaps years ago, perhaps half, perhaps edited since. `Record.load` returns the
model and, in words, every value that it had to leave out; only a file that is no JSON object at all is an error.
Documents of an earlier schema are upgraded while they are read, keys that this version does not know are kept, and a
model that is written again has them still.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from engine.errors import DraftbenchError
from engine.fileio import finite, read_bounded, read_json, write_json
from engine.records.values import shown, utc

Document = dict[str, Any]
"""A JSON object before it is read into a model."""


def _time(text: str) -> str:
    utc(text)
    return text


def _real(value: object) -> object:
    return math.nan if value is None or value in (math.inf, -math.inf) else value


Real = Annotated[float, BeforeValidator(_real)]
"""A number that may be undefined: NaN here, also for an infinity; null in the file, since JSON has neither."""
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""A whole number of 64 bits, as the index holds it."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A whole number from 0 on."""
Text = Annotated[str, Field(max_length=20_000)]
Time = Annotated[Text, AfterValidator(_time)]
"""A time in ISO 8601; UTC if it names no zone."""
Temperature = Annotated[float, Field(strict=False)]
"""A sampling temperature as the key of a JSON object, where it is a text: '0.7'."""


class NewerDocumentError(DraftbenchError):
    """A later version of Draftbench wrote the document: it is whole, and writing it again would lose what it says."""


class Part(BaseModel):
    """Part of a document. Every field has a default: an earlier version may not have written it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    def document(self) -> Document:
        """The JSON object to write: the fields that were set, and keys of other versions."""
        return self.model_dump(exclude_unset=True)


class Record(Part):
    """A document with a file of its own in the folder of a run or capture."""

    FILE: ClassVar[str]
    """Its path inside the folder."""
    SCHEMA: ClassVar[int] = 1
    """Raised whenever a key changes its meaning. A document without a number is of schema 0."""
    UPGRADES: ClassVar[Mapping[int, Callable[[Document], Document]]] = {}
    """Schema number -> what makes a document of it one of the next number; without an entry it is one already."""
    MOST_BYTES: ClassVar[int] = 1_000_000
    ESSENTIAL: ClassVar[frozenset[str]] = frozenset()
    """Keys without whose value the rest of the document says nothing."""
    FIX: ClassVar[str] = "restore it or remove it"
    """What to do about a damaged file."""

    def document(self) -> Document:
        return {"schema": self.SCHEMA} | self.model_dump(exclude_unset=True)

    @classmethod
    def of_values(cls, values: Document) -> Self:
        """The record of values that were computed now. Raises ValueError if one is not as the model says."""
        return cls.model_validate_json(json.dumps(finite(values)))

    def json_text(self, *without: str) -> str:
        """The document as JSON on one line, without a schema number and the keys `without`."""
        return self.model_dump_json(exclude_unset=True, exclude=set(without))

    @classmethod
    def of_json(cls, text: str | None) -> Self:
        """Read what `json_text` returned; an empty record for no text."""
        try:
            return cls.model_validate_json(text) if text else cls()
        except ValidationError:  # the index of an earlier version, not up to date yet
            return cls.parse(json.loads(text or "{}"))[0]

    def write(self, folder: Path) -> None:
        """Replace the file in `folder` atomically."""
        write_json(folder / self.FILE, self.document())

    @classmethod
    def load(cls, folder: Path) -> tuple[Self | None, list[str]]:
        """The document of `folder`, None without one, and a sentence for each value that was left out.

        Raises DraftbenchError if the file is not whole, not regular, too large, or of a later schema.
        """
        path = folder / cls.FILE
        try:
            record = cls.model_validate_json(read_bounded(path, cls.MOST_BYTES))
            if cls._is_current(_take_number(record)):
                return record, []
        except FileNotFoundError:
            if path.is_symlink():
                raise DraftbenchError(f"{path} is a link that leads nowhere", "", "remove it") from None
            return None, []
        except ValidationError:
            pass  # some value is odd, or an old file lacks what the upgrade adds: with care, below
        document = read_json(path, cls.MOST_BYTES)
        if not isinstance(document, dict):
            raise DraftbenchError(f"{path} is not a JSON object", "the file is damaged", cls.FIX)
        return cls.parse(document, path)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """As `load`, without the sentences."""
        return cls.load(folder)[0]

    @classmethod
    def read_or_empty(cls, folder: Path) -> Self:
        """As `read`, and an empty one for a missing or damaged file: beside a place that says what is wrong."""
        try:
            return cls.load(folder)[0] or cls()
        except DraftbenchError:
            return cls()

    @classmethod
    def parse(cls, document: Document, path: Path | None = None) -> tuple[Self, list[str]]:
        """The model of a JSON object of any schema up to this one, and a sentence for each value that was left out."""
        where = path or Path(cls.FILE)
        number = document.get("schema", 0)
        if not isinstance(number, int) or not 0 <= number <= cls.SCHEMA:
            is_newer = isinstance(number, int) and number > cls.SCHEMA
            raise (NewerDocumentError if is_newer else DraftbenchError)(
                f"{where} has schema {shown(number)}; this version of Draftbench knows up to {cls.SCHEMA}",
                "a newer Draftbench wrote it",
                "update Draftbench",
            )
        for step in range(number, cls.SCHEMA):
            document = cls.UPGRADES.get(step, dict)(document)
        record, left_out = tolerant(cls, {key: value for key, value in document.items() if key != "schema"})
        for keys, value in left_out:
            if keys[0] in cls.ESSENTIAL:
                raise DraftbenchError(f"{where} is damaged: {keys[0]} is {shown(value)}", "there is no such", cls.FIX)
        name = Path(cls.FILE).name
        return record, [
            f"{name}: {'.'.join(map(str, keys))}: {shown(value)} makes no sense" for keys, value in left_out
        ]

    @classmethod
    def _is_current(cls, schema: object) -> bool:
        return schema == cls.SCHEMA or (schema == 0 and not cls.UPGRADES)


def _take_number(record: Record) -> object:
    """The schema number of a document, which is no part of what it says."""
    record.model_fields_set.discard("schema")
    return (record.model_extra or {}).pop("schema", 0)


_PartT = TypeVar("_PartT", bound="Part")
Keys = tuple[str | int, ...]
"""Where in a document: keys of objects and places in lists, from the outside in."""


def tolerant(kind: type[_PartT], document: Document) -> tuple[_PartT, list[tuple[Keys, Any]]]:
    """A model of what makes sense in a document, and what does not with its place.

    Left out is the value itself, or the whole item of a list that it stands in: half a metric is none. Null in place
    of a value only says that it is not known.
    """
    left_out: list[tuple[Keys, Any]] = []
    document = _copied(document)
    while True:
        try:  # as JSON, which is what strict types are meant for
            return kind.model_validate_json(json.dumps(document)), sorted(left_out, key=lambda item: str(item[0]))
        except ValidationError as error:
            details = error.errors(include_url=False)
        faulty = {_existing(document, detail["loc"]): detail["type"] for detail in details}
        whole = [keys for keys, fault in faulty.items() if fault == "int_type" and _is_whole(_at(document, keys))]
        for keys in whole:
            _at(document, keys[:-1])[keys[-1]] = int(_at(document, keys))
        items = {_item(keys) for keys in faulty.keys() - set(whole)}
        for keys in sorted(items, key=_from_the_end):
            if any(keys[:length] in items for length in range(1, len(keys))):
                continue  # what it stands in is left out
            value = _at(document, keys[:-1]).pop(keys[-1])
            if value is not None or isinstance(keys[-1], int):
                left_out.append((keys, value))


def _existing(document: Document, location: tuple[str | int, ...]) -> Keys:
    """The part of an error's location that is in the document: all of it, or what something is missing in."""
    keys: list[str | int] = []
    inner: Any = document
    for key in location:
        try:
            inner = inner[key]
        except (KeyError, IndexError, TypeError):
            break
        keys.append(key)
    return tuple(keys)


def _item(keys: Keys) -> Keys:
    """The smallest part around an error that can be left out: the outermost item of a list, or the value itself."""
    return next((keys[: depth + 1] for depth, key in enumerate(keys) if isinstance(key, int)), keys)


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _at(document: Any, keys: Keys) -> Any:
    for key in keys:
        document = document[key]
    return document


def _from_the_end(keys: Keys) -> tuple[Any, ...]:
    """Places in one list in falling order, so that leaving out one does not move the next."""
    return tuple(-key if isinstance(key, int) else 0 for key in keys), tuple(map(str, keys))


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value
