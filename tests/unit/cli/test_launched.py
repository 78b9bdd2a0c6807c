"""Commands that a launcher starts as several processes: one run is shared, any other work is refused."""

from __future__ import annotations

import sys

import pytest

from engine.cli.app import main

REFUSED = {
    "measure latest": "`draftbench measure` was started as 2 processes",
    "study list": "`draftbench study` was started as 2 processes",
    "run recipes/smoke.yaml --queue": "`draftbench run --queue` was started as 2 processes",
    "run recipes/smoke.yaml --on ray": "`draftbench run --on` was started as 2 processes",
    "run recipes/smoke.yaml --on=local": "`draftbench run --on` was started as 2 processes",
    "run recipes/smoke.yaml --plan": "only `train` and `run`, where they work here, share theirs",
    "train recipes/smoke.yaml": "a recipe begins a new run",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_several_processes_cannot_share_is_refused(line: str, monkeypatch: pytest.MonkeyPatch, capsys):
    """The last line stands for processes that a launcher has started anew."""
    launch = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RESTART_COUNT": "1"}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["draftbench", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert REFUSED[line] in " ".join(capsys.readouterr().err.split())
