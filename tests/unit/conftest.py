"""One finished run on the tiny pair, made once through the command line, and a copy for each test that asks for it."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.conftest import made_once, tiny_llama

if TYPE_CHECKING:
    from engine.models.load import LoadedModel


@dataclass(frozen=True)
class Result:
    """What a command left behind: exit status, standard output, standard error."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Draftbench = Callable[..., Result]


def call(*arguments: str) -> Result:
    """The command in this process, as the console script calls it."""
    from engine.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(arguments)
    return Result(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """One thread, which is faster for tiny models, and chi-squares of fewer tokens than the certificate's."""
    import torch

    from engine.measure import certificate, suite

    threads, whole, draws = torch.get_num_threads(), certificate.chi_square, suite.PAIR_DRAWS
    torch.set_num_threads(1)
    suite.PAIR_DRAWS = 400
    certificate.chi_square = lambda **options: whole(**{**options, "tokens": 600})
    try:
        yield
    finally:
        certificate.chi_square, suite.PAIR_DRAWS = whole, draws
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """One processor thread for tiny tensors: with more, the threads wait for each other most of the time."""
    torch = sys.modules.get("torch")  # tests of what needs no torch do not wait for it to load
    before = torch.get_num_threads() if torch else None
    if torch:
        torch.set_num_threads(1)
    yield
    if torch:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def target() -> LoadedModel:
    """The tiny target as if it had been loaded."""
    from tests.tiny_pair import loaded

    return loaded(tiny_llama())


@pytest.fixture
def draftbench() -> Iterator[Draftbench]:
    with quick():
        yield call


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_target_folder: Path) -> Path:
    """A recipe over a few prompts that trains two layers in a second, with paths relative to itself."""
    values: dict[str, Any] = {
        "name": "tiny",
        "target": {"model": str(tiny_target_folder), "dtype": "float32", "device": "cpu"},
        "draft": {"layers": [0, 3]},
        "prompts": {"train": "train.jsonl", "heldout": "heldout.jsonl", "domain": "test"},
        "capture": {"max_new_tokens": 12, "batch_size": 4},
        "train": {"epochs": 2, "batch_size": 4, "eval_every": 2, "checkpoint_every": 1, "precision": "float32"},
        "measure": {
            "max_new_tokens": 10,
            "trace_prompts": 3,
            "speed_prompts": 2,
            "speed_tokens": 6,
            "certificate_prompts": 2,
            "certificate_tokens": 4,
            "bootstrap_samples": 200,
        },
    }

    def make(folder: Path) -> None:
        for name, count in (("train", 8), ("heldout", 6)):
            rows = [{"id": f"{name}{i}", "prompt": f"{name} question number {i * 7}?"} for i in range(count)]
            (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        (folder / "tiny.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")

    return made_once(tmp_path_factory, "recipes", make) / "tiny.yaml"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> tuple[Path, Result]:
    """A home with one run, and what `draftbench run --json` printed. Tests work on copies: `finished_home`."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch, quick():
            patch.setenv("DRAFTBENCH_HOME", str(folder / "home"))
            patch.setenv("DRAFTBENCH_CACHE", str(folder / "home" / "cache"))
            result = call("run", str(recipe), "--json")
        (folder / "result.json").write_text(json.dumps(asdict(result)), encoding="utf-8")

    folder = made_once(tmp_path_factory, "finished", make)
    return folder / "home", Result(**json.loads((folder / "result.json").read_text(encoding="utf-8")))


@pytest.fixture
def finished_home(finished: tuple[Path, Result], tmp_path: Path) -> Path:
    """This test's home, with a copy of the finished run and its captures."""
    return Path(shutil.copytree(finished[0], tmp_path / "home"))
