"""What a node says before it works on a run: that it cannot, so that another node is asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from engine.cluster import node_actor
from engine.cluster.node import own_build
from engine.cluster.node_actor import NodeActor
from engine.cluster.shared_home import home_token
from engine.paths import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(node_actor, "_node_id", lambda: "the-node")
    monkeypatch.setattr(node_actor, "this_host", lambda: "n1")
    monkeypatch.setattr(NodeActor, "_end_in_silence", lambda actor: None)  # which ends the process
    return Home(tmp_path / "home")


def prepared(home: Home) -> dict[str, Any]:
    order = {"run": "run-20260101-120000-0f3a", "home": str(home.root), "token": home_token(home), "captures": []}
    home.run(order["run"]).mkdir(parents=True)
    return NodeActor().prepare({**order, "build": own_build(), "files": {}})


def test_a_node_whose_own_folder_cannot_be_made_is_left_out(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DRAFTBENCH_NODE_HOME", str(tmp_path / "file"))
    said = prepared(home)
    assert said["for_all"]
    assert said["refusal"]["what"].startswith(f"node n1 has no folder to work in: cannot use {tmp_path / 'file'}")
    assert "DRAFTBENCH_NODE_HOME" in said["refusal"]["fix"]


def test_a_node_that_may_only_read_the_home_is_left_out(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    said = prepared(home)
    assert said["for_all"]
    assert "may only read it" in said["refusal"]["why"]


def test_a_node_with_a_folder_is_not(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert prepared(home)["refusal"] is None
    monkeypatch.setenv("DRAFTBENCH_NODE_HOME", str(tmp_path / "node"))
    assert NodeActor().prepare(
        {"run": "r", "home": str(home.root), "token": home_token(home), "captures": ["c"], "build": own_build()}
        | {"files": {}}
    )["missing"] == ["c"]
