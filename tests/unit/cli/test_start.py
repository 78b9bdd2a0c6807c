"""What a command loads before it answers: the help and the list of runs wait for no library that they do not use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from engine.index.ingest import ingest_all
from engine.paths import PROJECT_ROOT, home
from engine.records.status import Status
from engine.runs.folder import RunFolder
from engine.runs.listing import list_runs
from engine.runs.samples import sample_folders
from tests.unit.cli.test_commands import COMMANDS

# What takes longest to load. Typer itself loads Pydantic as soon as a subcommand is named.
HEAVY = {
    *("torch", "transformers", "tokenizers", "datasets", "peft", "scipy", "pandas", "numpy", "pyarrow", "duckdb"),
    *("httpx2", "psutil", "yaml", "tqdm", "filelock", "engine.config.schema", "engine.records.record"),
}
_LOADED = """
import json, sys
from engine.cli.app import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as ended:
        assert not ended.code, ended.code
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def loaded(*command_lines: list[str]) -> set[str]:
    """The heavy modules that a new process has loaded once it has done these commands."""
    line = [sys.executable, "-c", _LOADED, json.dumps(command_lines)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=PROJECT_ROOT, check=True)
    return HEAVY & set(json.loads(done.stderr.splitlines()[-1]))


def test_help_and_version_load_nothing_heavy():
    assert loaded(["--help"], ["--version"]) == set()


@pytest.mark.slow
def test_the_help_of_no_command_loads_anything_heavy():
    assert loaded(*([*name.split()[1:], "--help"] for name in COMMANDS)) == set()


@pytest.mark.slow
def test_the_list_of_many_finished_runs_is_read_from_the_index_alone():
    home().runs.mkdir(parents=True)
    for folder in sample_folders():
        (home().runs / folder.name).symlink_to(folder)  # a run may be a link
    ingest_all(home())
    assert len(list_runs(home())) == len(sample_folders()) > 100
    assert loaded(["runs"], ["runs", "--json"]) == {"duckdb", "filelock"}


@pytest.mark.slow
def test_a_run_at_work_adds_the_models_of_its_status_but_no_recipe():
    run = RunFolder(shutil.copytree(sample_folders()[0], home().runs / "waiting"))
    Status.model_validate({**run.status().document(), "state": "queued", "run_id": "waiting"}).write(run.path)
    assert [row["state"] for row in list_runs(home())] == ["queued"]
    assert loaded(["runs"]) == {"duckdb", "filelock", "psutil", "engine.records.record"}


@pytest.mark.slow
def test_slices_that_need_no_tokenizer_load_no_torch():
    RunFolder(shutil.copytree(sample_folders()[0], home().runs / "sample"))
    assert not loaded(["slices", "sample", "--by", "position"]) & {"torch", "transformers", "tokenizers"}
