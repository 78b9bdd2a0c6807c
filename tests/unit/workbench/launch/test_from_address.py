"""What a link may set in the Launch form, and what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config.reading import parse_recipe
from engine.errors import DraftbenchError
from workbench.launch import from_address
from workbench.launch.from_address import by_hand, is_by_hand, taken

SERVER = "{base_url: 'http://evil.test/v1', model: m, key_env: HOME}"


def values(**changes: Any) -> dict[str, Any]:
    made = parse_recipe({"prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}, **changes})
    return made.model_dump(mode="json")


def test_rights_and_servers_are_marked_in_the_schema():
    assert list(by_hand()) == ["target.trust_remote_code", "capture.server"]
    assert is_by_hand("capture.server.key_env=X")
    assert is_by_hand(" target.trust_remote_code = true")
    assert not is_by_hand("capture.seed=1")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("target.trust_remote_code=true", "target.trust_remote_code=true"),
        ("target={model: x, trust_remote_code: true}", "target.trust_remote_code=true"),
        ("target.trust_remote_code='yes'", "target.trust_remote_code='yes'"),
        ("capture.server.key_env=HOME", "capture.server={key_env: HOME}"),
        ("capture.server.base_url=http://evil.test/v1", "capture.server={base_url"),
        (f"capture.server={SERVER}", "capture.server={base_url"),
        (f"capture={{server: {SERVER}}}", "capture.server={base_url"),
        (" capture . server=x", None),
    ],
)
def test_neither_a_right_nor_a_server_is_taken(setting: str, named: str | None):
    before = values()
    found = taken(before, [setting, "train.epochs=3"])
    assert found.values["train"]["epochs"] == 3
    assert not found.values["target"].get("trust_remote_code", False)
    assert found.values["capture"].get("server") is None
    if named is not None:
        assert [one for one in found.refused if one.startswith(named)]


def test_everything_else_is_taken():
    found = taken(
        values(), ["target.model=hub:a/b", "prompts.train=/dev/zero", "train.loss=[tvd, sft]", "notes='a & b: [c'"]
    )
    assert found.refused == ()
    assert found.values["target"]["model"] == "hub:a/b"


@pytest.mark.parametrize(
    "setting",
    ["target.model=hub:evil/model", "target=hub:evil/model", "draft.checkpoint=hub:evil/model", "target.adapter=x"],
)
def test_trust_in_one_model_is_no_trust_in_another(setting: str):
    before = values(target={"model": "hub:good/model", "trust_remote_code": True})
    found = taken(before, [setting])
    target = found.values["target"]
    assert isinstance(target, str) or not target["trust_remote_code"]
    assert found.refused
    assert taken(before, ["train.epochs=3"]).values["target"]["trust_remote_code"] is True


def test_a_server_of_an_earlier_run_stays_as_it_was():
    server = {"base_url": "https://mine.example/v1", "model": "m", "key_env": "MY_KEY"}
    before = values(capture={"signal": "none", "server": server}, train={"loss": "sft"})
    found = taken(before, ["capture.server.base_url=http://evil.test/v1"])
    assert found.values["capture"]["server"] == before["capture"]["server"]
    assert len(found.refused) == 1


BOMB = "a=[&a [x,x], &b [*a,*a], &c [*b,*b], [*c,*c]]"


@pytest.mark.parametrize("setting", ["tags=" + "[" * 60 + "]" * 60, "notes=" + "x" * 3000, BOMB, "tags=" + "[" * 1500])
def test_what_grows_when_it_is_read_is_refused(setting: str):
    with pytest.raises(DraftbenchError, match="is not taken"):
        taken(values(), [setting])


def test_a_link_of_many_settings_is_refused():
    with pytest.raises(DraftbenchError, match="more than 100"):
        taken(values(), ["train.epochs=3"] * 101)


@pytest.mark.parametrize("setting", ["nonsense", "train.seed=!!python/object:os.system", "a=[", "=5", "target.model"])
def test_what_cannot_be_read_is_an_error_in_words(setting: str):
    with pytest.raises(DraftbenchError):
        parse_recipe(taken(values(), [setting]).values)


def test_a_long_wish_is_cut_where_it_is_shown():
    found = taken(values(), ["capture.server.model=" + "x" * 1000])
    assert len(found.refused[0]) < from_address._SHOWN + 10
