"""docs/extending.md, followed to the letter: its blocks are applied to a copy of the project, which uses them all."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config.schema import TrainSpec
from engine.distill.schedule import Passes
from engine.paths import PROJECT_ROOT

PAGE = PROJECT_ROOT / "docs" / "extending.md"
_BLOCK = re.compile(
    r"^```python\n# (\S+?),? (\(new file\)|above (\w+)|in (\w+)|with the imports)\n(.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A piece of code of the page. `where`: '(new file)', 'above NAME', 'in NAME' or 'with the imports'."""

    file: str
    where: str
    code: str

    def apply(self, root: Path) -> None:
        path = root / self.file
        if self.where == "(new file)":
            assert not path.exists()
            path.parent.mkdir(exist_ok=True)
            path.write_text(self.code, encoding="utf-8")
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        place, _, name = self.where.partition(" ")
        start = "from engine" if place == "with" else rf"(?:def )?{name}\b(?:: [^=]+)?(?: = |\()"
        (first, *_) = (number for number, line in enumerate(lines) if re.match(start, line))
        lines.insert(first + (place == "in"), self.code if place in ("in", "with") else f"{self.code}\n\n")
        path.write_text("".join(lines), encoding="utf-8")


def blocks(section: str | None = None) -> list[Block]:
    """The blocks of the page, or of one section of it."""
    text = PAGE.read_text(encoding="utf-8")
    if section is not None:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    listed = [Block(match[1], match[2], match[5]) for match in _BLOCK.finditer(text)]
    assert len(listed) == text.count("```python"), "a block of the page does not say where it belongs"
    return listed


@pytest.mark.parametrize("section", ["A mode", "An export format"])
def test_it_takes_one_file_and_one_line(section: str):
    new, line = blocks(section)
    assert (new.where, line.where.partition(" ")[0]) == ("(new file)", "in")
    assert line.code.count("\n") == 1


@pytest.mark.parametrize("spec", [{"batch_size": 2}, {"batch_size": 99}, {"batch_tokens": 10}, {"batch_tokens": 30}])
def test_the_mode_of_the_page_passes_each_answer_as_often_as_there_are_epochs(spec: dict[str, int]):
    """Whatever the steps are made of, and no further than the last epoch."""
    names: dict[str, Any] = {"__name__": "curriculum"}
    exec(compile(blocks("A mode")[0].code, "curriculum", "exec"), names)
    names["captured"] = lambda capture, answer: answer
    mode = object.__new__(names["CurriculumBatches"])
    mode.capture = SimpleNamespace(answers=[SimpleNamespace(token_ids=[0] * n) for n in (40, 10, 20)])
    passes = Passes([40, 10, 20], TrainSpec(epochs=3, **spec))
    mode.steps, mode.visits, mode.grouped = passes.steps, passes.visits, list
    order = [len(answer.token_ids) for step in range(mode.steps) for answer in mode.micro_batches(step)]
    assert order == [10, 20, 40] * 3


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's code with every block of the page in it."""
    root = tmp_path_factory.mktemp("extended")
    for folder in ("engine", "workbench", "pages", "recipes"):
        shutil.copytree(PROJECT_ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for block in blocks():
        block.apply(root)
    return root


def call(project: Path, home: Path, *arguments: str) -> str:
    """What a Python command prints that runs in the copy."""
    settings = {"PYTHONPATH": str(project), "DRAFTBENCH_HOME": str(home), "DRAFTBENCH_CACHE": str(home / "cache")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env={**os.environ, **settings, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_the_page_adds_is_described_everywhere(project: Path, tmp_path: Path):
    code = """
import json
from engine.catalogue import EXPORTERS, LOSSES, MODES
from engine.config.reading import schema_rows
from engine.data.packs.presets import PRESETS
from workbench.launch.form import field_at, shape_of
from workbench.shared.pages import PAGES
meaning = next(row["meaning"] for row in schema_rows() if row["key"] == "train.mode")
print(json.dumps([
    "hellinger" in LOSSES, "curriculum" in shape_of(field_at("train.mode")).options, "short answers first" in meaning,
    "weights" in EXPORTERS, "field-notes" in PRESETS, PAGES["notes"].title,
]))
"""
    assert json.loads(call(project, tmp_path, "-c", code)) == [True, True, True, True, True, "Notes"]
    assert "hellinger" in call(project, tmp_path, "-m", "engine", "losses")


@pytest.mark.slow
def test_a_run_learns_with_the_loss_in_the_mode_and_is_exported_in_the_format(
    project: Path, tmp_path: Path, recipe: Path
):
    settings = ["train.loss=hellinger", "train.mode=curriculum", "capture.max_new_tokens=200"]
    settings += ["measure.speed_prompts=0", "measure.trace_prompts=2"]
    settings = [part for setting in settings for part in ("--set", setting)]
    run: dict[str, Any] = json.loads(call(project, tmp_path, "-m", "engine", "run", str(recipe), "--json", *settings))
    assert run["state"] == "done"
    assert {m["metric"] for m in run["metrics"]} >= {"exact", "per_round"}
    assert "per_round: accepted / rounds" in " ".join(call(project, tmp_path, "-m", "engine", "show", "latest").split())
    folder = tmp_path / "runs" / run["run"]
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert training["steps_done"] == training["steps"] > 0
    lengths = [
        json.loads(line)["positions"]
        for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
        if json.loads(line)["kind"] == "train"
    ]
    assert lengths[0] == lengths[2] < lengths[1] == lengths[3]  # two epochs, the shorter answers first in each
    out = tmp_path / "draft"
    report = json.loads(
        call(project, tmp_path, "-m", "engine", "export", "latest", "--format", "weights", "--out", str(out), "--json")
    )
    assert report["ok"]
    assert {path.name for path in out.iterdir()} >= {"config.json", "model.safetensors", "README.md"}
    assert not (out / "tokenizer.json").exists()
