"""A node that could make other results refuses to work, and says why."""

from __future__ import annotations

from pathlib import Path

from engine.cluster.node import differing_build, file_marks, local_files, missing_files, own_build
from engine.config.reading import parse_recipe


def test_the_same_build_may_work():
    assert differing_build(own_build(), "n1") is None


def test_another_version_is_named_with_both_numbers():
    refusal = differing_build({**own_build(), "torch": "1.0"}, "n1")
    assert refusal is not None
    assert "n1" in refusal["what"]
    assert f"torch {own_build()['torch']} there, 1.0 here" in refusal["what"]


def test_other_code_of_the_same_version_is_refused():
    refusal = differing_build({**own_build(), "code": "0" * 64}, "n1")
    assert refusal is not None
    assert "other source files" in refusal["what"]


def test_a_file_that_the_node_lacks_or_has_otherwise_is_refused(tmp_path: Path):
    (tmp_path / "train.jsonl").write_text("{}\n")
    (tmp_path / "target").mkdir()
    recipe = parse_recipe(
        {
            "target": {"model": str(tmp_path / "target")},
            "prompts": {"train": str(tmp_path / "train.jsonl"), "heldout": "pack:biology/historical-heldout"},
        }
    )
    wanted = file_marks(local_files(recipe))
    assert wanted == {str(tmp_path / "target"): -1, str(tmp_path / "train.jsonl"): 3}
    assert missing_files(wanted, "n1") is None
    (tmp_path / "train.jsonl").write_text("{}\n{}\n")
    assert "not the file that it is here" in (missing_files(wanted, "n1") or {})["what"]
    (tmp_path / "train.jsonl").unlink()
    assert "n1 has no" in (missing_files(wanted, "n1") or {})["what"]
