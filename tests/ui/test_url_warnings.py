"""What an address asks for in vain is said, on every page and for every kind of value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.ui.conftest import OpenPage
from workbench.shared.url_warnings import same


def warnings(shown: Any) -> str:
    return "\n".join(str(part.value) for part in shown.warning).replace("\\", "")


@pytest.mark.parametrize(
    ("page_name", "params", "words"),
    [
        ("runs", {"order": "by luck"}, "order = by luck does not exist here"),  # a bound select box
        ("runs", {"loss": ["tvd", "nonsense"]}, "loss = tvd, nonsense does not exist here"),  # a bound multiselect
        ("runs", {"oder": "newest"}, "no parameter oder; did you mean order?"),
        ("run", {"view": "Cruves"}, "view = Cruves does not exist here; showing Curves"),  # a bound segmented control
        ("run", {"axis": "moons"}, "axis = moons does not exist here; showing steps"),
        ("compare", {"domain": "botany"}, "domain = botany does not exist here"),  # kept by the page, not bound
        ("compare", {"temperature": "0.35"}, "temperature = 0.35 does not exist here"),
        ("compare", {"rate": "luck"}, "rate = luck does not exist here; showing exact"),
        ("learn", {"topic": "cooking"}, "topic = cooking does not exist here; showing words"),
        ("learn", {"topic": "speed", "gamma": "99"}, "gamma = 99 does not exist here; showing 3"),  # a bound slider
        ("findings", {"study": "no-such"}, "study = no-such does not exist here"),
        ("replay", {"round": "99"}, "round = 99 does not exist here"),
        ("home", {"whatever": "1"}, "no parameter whatever"),
    ],
)
def test_what_the_address_asks_for_in_vain_is_said(
    page: OpenPage, finished_home: Path, page_name: str, params: dict[str, Any], words: str
) -> None:
    assert words in warnings(page(page_name, **params))


@pytest.mark.parametrize(
    ("page_name", "params"),
    [
        ("runs", {"order": "newest", "group": "nothing", "archived": "hidden", "q": "tiny"}),
        ("run", {"view": "Log", "lines": "1000", "wrap": "false"}),
        ("compare", {"temperature": "0.0", "rate": "per_examined"}),
        ("learn", {"topic": "speed", "alpha": "0.70", "gamma": "3", "c": "0.1"}),
        ("home", {}),
    ],
)
def test_an_address_that_can_be_shown_is_not_complained_of(
    page: OpenPage, finished_home: Path, page_name: str, params: dict[str, str]
) -> None:
    assert warnings(page(page_name, **params)) == ""


def test_a_click_after_a_wrong_address_complains_no_more(page: OpenPage, finished_home: Path) -> None:
    shown = page("runs", order="by luck")
    shown.selectbox(key="order").select_index(1).run()
    assert "by luck" not in warnings(shown)


@pytest.mark.parametrize(
    ("shown", "asked", "equal"),
    [
        (0.7, ["0.70"], True),
        (True, ["true"], True),
        (["b", "a"], ["a", "b"], True),
        ("a", ["b"], False),
        ([], ["x"], False),
        (3, ["4"], False),
    ],
)
def test_a_value_is_what_the_address_says_in_any_spelling(shown: Any, asked: list[str], equal: bool) -> None:
    assert same(shown, asked) is equal


def test_many_unknown_names_and_values_take_three_lines(page: OpenPage, finished_home: Path) -> None:
    wrong = {f"name{number}": "x" for number in range(9)}
    said = warnings(page("runs", order="by luck", group="by chance", **wrong))
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == 3
    assert "no parameter name0" in lines[1]
    assert lines[1].endswith("and 6 more")
    assert "order = by luck does not exist here" in lines[2]
