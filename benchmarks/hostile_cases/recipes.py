"""Hostile recipes, studies, settings and prompt files: refused in words or read, within a bounded time and memory."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.hostile_cases.case import Case
from engine.config.reading import load_recipe, parse_section
from engine.config.schema import PromptSource
from engine.data.readers import read_prompts
from engine.errors import DraftbenchError
from engine.logs.queries import LogSource
from engine.magpie.recipe import MagpieRecipe
from engine.paths import home
from engine.runs.folder import RunFolder
from engine.runs.recipes import read_recipe
from engine.study.spec import load_study

MEGABYTE = 1024**2
PROMPTS = "prompts: {train: p.jsonl, heldout: p.jsonl}\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)
)
DEEP = 100_000

# A recipe's text after good prompts, or the whole file as bytes; each must be refused.
RECIPES: dict[str, str | bytes] = {
    "a key twice": "name: a\nname: b\n",
    "a section twice": "train: {epochs: 1}\ntrain: {loss: tvd}\n",
    "a nested key twice": "train: {epochs: 1, epochs: 2}\n",
    "two merge keys": "draft: {<<: {layers: 1}, <<: {layers: 2}}\n",
    "alias bomb": BOMB,
    "alias bomb of mappings": BOMB.replace("[x, x", "[{k: x}, x"),
    "alias to itself": "notes: &a [*a]\n",
    "100,000 brackets": "notes: " + "[" * DEEP,
    "100,000 braces": "notes: " + "{a: " * DEEP,
    "100,000 dashes": "notes: " + "- " * DEEP,
    "deep indents": "".join(" " * n + f"k{n}:\n" for n in range(300)),
    "python tag": "notes: !!python/object/apply:os.system [true]\n",
    "unknown tag": "notes: !mine x\n",
    "binary tag": "notes: !!binary '%'\n",
    "timestamp tag": "notes: !!timestamp 2025-13-45\n",
    "set and omap": "notes: !!omap [{a: 1}]\ntags: !!set {a}\n",
    "4,400 digits": f"train: {{seed: {'7' * 4400}}}\n",
    "4,400 hexadecimal digits": f"train: {{seed: 0x{'7' * 4400}}}\n",
    "64 bits of a seed": "train: {seed: 18446744073709551615}\n",
    "layers beyond 63 bits": "draft: {layers: [9223372036854775808]}\n",
    "infinite epochs": "train: {epochs: .inf}\n",
    "temperature nan": "measure: {temperatures: [.nan]}\n",
    "temperature 1e300": "measure: {temperatures: [1.0e+300]}\n",
    "10^15 resamples": "measure: {bootstrap_samples: 1000000000000000}\n",
    "a date that is none": "target: {model: m, template_date: 2025-13-45}\n",
    "half a character": 'notes: "\\ud83d"\n',
    "a zero byte": "notes: a\0b\n",
    "two documents": "---\nname: b\n",
    "a list": b"- a\n- b\n",
    "a scalar": b"hello\n",
    "nothing": b"",
    "only comments": b"# hi\n",
    "null": b"null\n",
    "keys that are no text": "1: x\ntrue: y\nnull: z\n",
    "a key of a list": "? [a, b]\n: x\n",
    "base is itself": "base: recipe.yaml\n",
    "base is a list": "base: [a, b]\n",
    "base is a device": "base: /dev/zero\n",
    "base with a zero byte": 'base: "a\\0b"\n',
    "UTF-16": "name: a\n".encode("utf-16"),
    "Latin-1": "notes: café\n".encode("latin-1"),
    "100 MB": b"notes: " + b"x" * (100 * MEGABYTE),
    "a megabyte of anchors": "".join(f"a{n}: &a{n} x\n" for n in range(60_000)),
    "zip": b"PK\x03\x04" + bytes(range(256)),
    "torn quote": 'notes: "never closed\n',
    "tabs": "train:\n\tepochs: 1\n",
    "percent directive": b"%YAML 9.9\n---\nname: a\n",
    "a misspelt key": "train: {epoch: 2}\n",
    "a path with a zero byte": b'prompts: {train: "a\\0b", heldout: p.jsonl}\n',
    "a path too long": f"prompts: {{train: {'x' * 5000}, heldout: p.jsonl}}\n".encode(),
    "the home of nobody": b"prompts: {train: ~nobody-of-that-name/x, heldout: p.jsonl}\n",
    "a model with a zero byte": 'target: "a\\0b"\n',
}
SETTINGS = [
    ["train.epochs=1", "train.epochs=2"],
    ["train.epochs=1", "train={}"],
    ["=1"],
    ["train.epochs"],
    ["a.b.c=1"],
    ["notes=[" + "[" * DEEP],
    ["train..epochs=1"],
    [f"train.seed={'7' * 4400}"],
    ["notes=!!python/name:os.system"],
    ["notes=&a [*a]"],
    ["train.seed=2025-13-45"],
]


def cases() -> list[Case]:
    """Every kind as a case of its own."""
    return [
        *(Case(f"recipe: {name}", _refused(_recipe(content))) for name, content in RECIPES.items()),
        *(Case(f"setting: {' '.join(s)[:40]}", _refused(_with_settings(s))) for s in SETTINGS),
        *(Case(f"{reader}: {kind}", _refused(_special(reader, kind))) for reader in READERS for kind in SPECIAL),
        *(Case(f"study: {name}", _refused(_study(text))) for name, text in STUDIES.items()),
        *(Case(f"prompts: {name}", _prompts(*spec)) for name, spec in PROMPT_FILES.items()),
        Case("recipe: date and BOM as text", _dates),
        Case("recipe: an alias changed at one place", _alias),
        Case("Magpie recipe: a key twice", _refused(_magpie)),
        Case("run: an integer of 63 bits is kept", _largest_seed),
        Case("Parquet: a gigabyte in a few bytes", _packed),
    ]


def _refused(attempt: Callable[[Path], object]) -> Callable[[Path], None]:
    """The attempt must be refused: what it reads would be something else than was written."""

    def tried(folder: Path) -> None:
        (folder / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
        os.chdir(folder)
        value = attempt(folder)
        raise AssertionError(f"read as {str(value)[:200]}")

    return tried


def _recipe(content: str | bytes) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        path = folder / "recipe.yaml"
        path.write_bytes(
            content if isinstance(content, bytes) else (PROMPTS + content).encode("utf-8", "surrogatepass")
        )
        return read_recipe(home(), str(path), [], skip_bad=False)

    return read


def _with_settings(settings: list[str]) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        (folder / "recipe.yaml").write_text(PROMPTS)
        return load_recipe(folder / "recipe.yaml", settings)

    return read


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a FIFO": _fifo,
    "a socket": _socket,
    "a folder": lambda path: path.mkdir(),
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "/dev/stdin": lambda path: path.symlink_to("/dev/stdin"),
    "/proc/self/environ": lambda path: path.symlink_to("/proc/self/environ"),
    "/proc/kmsg": lambda path: path.symlink_to("/proc/kmsg"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nowhere": lambda path: path.symlink_to(path.parent / "nowhere"),
    "a hole of a terabyte": lambda path: _hole(path, 1024**4),
    "a name that is no UTF-8": lambda path: path.symlink_to(os.fsdecode(b"caf\xe9")),
}
READERS: dict[str, Callable[[Path], object]] = {
    "recipe": lambda path: load_recipe(path),
    "study": lambda path: load_study(path),
    "prompts.jsonl": lambda path: _read(path),
    "prompts.json": lambda path: _read(path),
    "prompts.csv": lambda path: _read(path),
    "prompts.parquet": lambda path: _read(path),
    "folder": lambda path: _read(path.parent),
}


def _special(reader: str, kind: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        inner = folder / "inner"
        inner.mkdir()
        path = inner / {"recipe": "r.yaml", "study": "s.yaml", "folder": "x.jsonl"}.get(reader, reader)
        SPECIAL[kind](path)
        return READERS[reader](path)

    return read


def _hole(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _read(path: Path, **columns: str) -> object:
    return read_prompts([parse_section(PromptSource, {"path": str(path), **columns})], skip_bad=True)


STUDIES = {
    "a key twice": "name: s\naxes: {seed: [0]}\naxes: {loss: [tvd]}\n",
    "alias bomb": "name: s\naxes: {}\n" + BOMB,
    "axes of numbers": "name: s\naxes: {seed: {a: 5}}\n",
    "axes are a list": "name: s\naxes: [a]\n",
    "grids are numbers": "name: s\naxes: {seed: [0]}\ngrids: [1, 2]\n",
    "a base with a zero byte": 'name: s\naxes: {seed: [0]}\nbase: "a\\0b"\n',
    "a base that is a device": "name: s\naxes: {seed: [0]}\nbase: /dev/zero\n",
    "brackets": "name: s\naxes: " + "[" * DEEP,
}


def _study(text: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        (folder / "study.yaml").write_text(text)
        return load_study(folder / "study.yaml")

    return read


def _nested_call(levels: int) -> str:
    call = {"name": "f", "arguments": '{"a":' * levels + "1" + "}" * levels}
    turns = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "x"},
    ]
    return json.dumps({"messages": turns})


GOOD = b'{"prompt": "good"}\n'
# File name, bytes, how many good prompts are read (None: the file is refused), columns.
PROMPT_FILES: dict[str, tuple[str, bytes, int | None, dict[str, str]]] = {
    "4,400 digits": ("p.jsonl", GOOD + b'{"prompt": "x", "n": ' + b"7" * 4400 + b"}", 1, {}),
    "4,400 digits in an array": ("p.json", b'[{"prompt": "good"}, {"prompt": "x", "n": ' + b"7" * 4400 + b"}]", 1, {}),
    "a key twice": ("p.jsonl", GOOD + b'{"prompt": "a", "prompt": "b"}', 1, {}),
    "a line of 100 MB": ("p.jsonl", GOOD + b'{"prompt": "' + b"a" * (100 * MEGABYTE) + b'"}\n' + GOOD, 2, {}),
    "a field of 100 MB": ("p.csv", b"prompt\n" + b"a" * (100 * MEGABYTE), None, {}),
    "100,000 brackets": ("p.jsonl", GOOD + b"[" * DEEP, 1, {}),
    "100,000 objects": ("p.jsonl", GOOD + b'{"a":' * DEEP, 1, {}),
    "100,000 brackets in an array": ("p.json", b"[" * DEEP, None, {}),
    "900 levels of arguments": ("p.jsonl", GOOD + b'{"prompt": "x", "tools": ' + b"[" * 900 + b"]" * 900 + b"}", 1, {}),
    "half a character": ("p.jsonl", GOOD + b'{"prompt": "\\ud83d"}', 1, {}),
    "half a character as an id": ("p.jsonl", GOOD + b'{"prompt": "x", "id": "\\ud83d"}', 1, {}),
    "NaN in a message": ("p.jsonl", GOOD + b'{"messages": [{"role": "user", "content": "x", "w": NaN}]}', 1, {}),
    "infinity in a tool": (
        "p.jsonl",
        GOOD + b'{"prompt": "x", "tools": [{"name": "f", "parameters": {"max": 1e999}}]}',
        1,
        {},
    ),
    "UTF-16": ("p.jsonl", '{"prompt": "x"}\n'.encode("utf-16"), None, {}),
    "UTF-8 with its mark": ("p.jsonl", b"\xef\xbb\xbf" + GOOD, 1, {}),
    "Latin-1": ("p.csv", "prompt\ncafé\n".encode("latin-1"), None, {}),
    "zero bytes": ("p.csv", b"prompt\na\0b\n" + b"\0" * 1000, 2, {}),
    "a column twice": ("p.csv", b"prompt,prompt\na,b\n", None, {}),
    "no such column": ("p.jsonl", GOOD, None, {"tools_column": "tols"}),
    "no such column in CSV": ("p.csv", b"prompt\na\n", None, {"messages_column": "mesages"}),
    "a path into a list": (
        "p.jsonl",
        b'{"a": [{"b": [{"role": "user", "content": "x"}]}]}',
        1,
        {"messages_column": "a.0.b"},
    ),
    "a path of 10^9": ("p.jsonl", GOOD, None, {"messages_column": "a." + "9" * 5000}),
    "roles of another kind": ("p.jsonl", GOOD + b'{"messages": [{"role": ["user"], "content": "x"}]}', 1, {}),
    "arguments nested 900 deep": ("p.jsonl", GOOD + _nested_call(900).encode(), 1, {}),
    "damaged Parquet": ("p.parquet", b"PAR1" + bytes(200) + b"PAR1", None, {}),
    "Parquet of zeros": ("p.parquet", bytes(MEGABYTE), None, {}),
}


def _prompts(name: str, content: bytes, good: int | None, columns: dict[str, str]) -> Callable[[Path], None]:
    def tried(folder: Path) -> None:
        path = folder / name
        path.write_bytes(content)
        source = parse_section(LogSource, {"path": str(path), **columns})
        try:
            count = len(read_prompts([source], skip_bad=True).prompts)
        except DraftbenchError:
            if good is None:
                raise
            raise AssertionError("refused whole, although it holds good prompts") from None
        if count != good:
            raise AssertionError(f"{count} prompts were read")

    return tried


def _dates(folder: Path) -> None:
    path = folder / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + (PROMPTS + "name: 2025-01-01\nnotes: 2025-13-45\n").encode())
    recipe = load_recipe(path)
    assert (recipe.name, recipe.notes) == ("2025-01-01", "2025-13-45")


def _alias(folder: Path) -> None:
    (folder / "r.yaml").write_text("prompts: {train: &p {path: p.jsonl}, heldout: *p}\n")
    recipe = load_recipe(folder / "r.yaml", ["prompts.train.limit=3"])
    assert recipe.prompts.heldout[0].limit is None, "a setting of one alias changed the other"


def _magpie(folder: Path) -> object:
    from engine.config.reading import load_section

    (folder / "m.yaml").write_text("queries: 5\nqueries: 6\n")
    return load_section(MagpieRecipe, folder / "m.yaml")


def _largest_seed(folder: Path) -> None:
    from engine.index.ingest import ingest_all

    (folder / "r.yaml").write_text(PROMPTS + f"train: {{seed: {2**63 - 1}}}\n")
    RunFolder.create(home(), load_recipe(folder / "r.yaml"))
    ingest_all(home())


def _packed(folder: Path) -> None:
    """A value that is written once and stands in every row."""
    text = pa.array(["a" * (8 * MEGABYTE)])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), text)
    pq.write_table(pa.table({"prompt": column}), folder / "p.parquet")
    _read(folder / "p.parquet")
