"""The folders of a home and a cache, as the environment names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import DraftbenchError
from engine.paths import cache_dir, home
from tests.unit.conftest import Draftbench


def test_a_tilde_is_the_users_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DRAFTBENCH_HOME", "~/results")
    monkeypatch.setenv("DRAFTBENCH_CACHE", "~/cache")
    assert (home().root, cache_dir()) == (tmp_path / "results", tmp_path / "cache")


@pytest.mark.parametrize("variable", ["DRAFTBENCH_HOME", "DRAFTBENCH_CACHE"])
def test_a_folder_of_an_unknown_user_is_refused_by_every_command(
    variable: str, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(variable, "~no-such-user/results")
    with pytest.raises(DraftbenchError, match="no such user"):
        home(), cache_dir()
    refused = draftbench("paths", "--json")
    assert (refused.code, variable in refused.json()["error"]["what"]) == (2, True)
