"""Which runs stand beside each other for the best draft of a target and domain."""

import pandas as pd

from workbench.shared.queries import _on_one_text

KEYS = ["target", "domain", "temperature"]


def rates(**columns: list) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    same = {"target": "t", "domain": "law", "temperature": 0.0, "heldout_hash": "h", "dtype": "bfloat16"}
    same |= {"n_prompts": 60, "text_settings": "[80, 1.0, 0, 0]"}
    base = {name: [value] * count for name, value in same.items()}
    made = {"run_id": [f"r{i}" for i in range(count)], "created_at": pd.to_datetime(range(count))}
    return pd.DataFrame({**base, **made, **columns})


def kept(frame: pd.DataFrame) -> list[str]:
    return sorted(_on_one_text(frame, KEYS).run_id)


def test_rates_of_other_prompts_lengths_or_precision_are_not_ranked_with_the_others():
    assert kept(rates(heldout_hash=["h", "h", "other"])) == ["r0", "r1"]
    assert kept(rates(text_settings=["[80, 1.0, 0, 0]", "[80, 1.0, 0, 0]", "[16, 1.0, 0, 0]"])) == ["r0", "r1"]
    assert kept(rates(dtype=["bfloat16", "float32", "bfloat16"])) == ["r0", "r2"]


def test_most_prompts_count_then_most_runs_then_the_newest():
    assert kept(rates(n_prompts=[60, 60, 100])) == ["r2"]
    assert kept(rates(heldout_hash=["a", "b"])) == ["r1"]
    assert kept(rates(domain=["law", "law", "trade"], n_prompts=[9, 60, 9])) == ["r1", "r2"]


def test_what_is_not_recorded_is_alike():
    assert kept(rates(text_settings=[None, None])) == ["r0", "r1"]
