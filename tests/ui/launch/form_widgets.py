"""How tests find their way in the form."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from engine.config.schema import Recipe
from engine.jobs import queue
from engine.paths import home


def widget(shown: AppTest, key: str) -> Any:
    """The widget of a recipe's key, such as `train.epochs` or `train.loss.0.name`."""
    kinds = ("text_input", "number_input", "selectbox", "toggle", "multiselect", "text_area")
    for kind in kinds:
        for found in shown.get(kind):
            if found.key and found.key.startswith("form:") and found.key.endswith(f":{key}"):
                return found
    raise AssertionError(f"no widget for {key}")


def button(shown: AppTest, start: str) -> Any:
    return next(found for found in shown.button if found.key and found.key.startswith(start))


def switch(shown: AppTest, part: str) -> Any:
    """The switch of an optional part such as `capture.server`."""
    return next(found for found in shown.toggle if (found.key or "").endswith(f":use:{part}"))


def drawn(shown: AppTest, start: str) -> set[str]:
    """Keys of the recipe that have a widget now and begin so."""
    kinds = ("text_input", "number_input", "selectbox", "toggle")
    keys = {str(found.key).rpartition(":")[2] for kind in kinds for found in shown.get(kind) if found.key}
    return {key for key in keys if key.startswith(start)}


def settings_of(shown: AppTest) -> list[str]:
    """What follows each `--set` of the command line shown."""
    words = shlex.split(shown.code[-1].value.replace("\\\n", " "))
    return [words[i + 1] for i, word in enumerate(words) if word == "--set"]


def queued() -> list[Recipe]:
    return [run.recipe() for run in queue.waiting(home())]


def boxes(shown: AppTest) -> str:
    return "\n".join(box.value for box in shown.error)


def warnings_of(shown: AppTest) -> str:
    return "\n".join(box.value for box in shown.warning).replace("\\", "")


def scenario_files(folder: Path) -> dict[str, str]:
    found = {}
    for name in ("historical", "synthetic"):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(f'{{"prompt": "{name} question {i} about the number {i}?"}}\n' for i in range(12)))
        found[name] = str(path)
    return found


def served(shown: AppTest, address: str = "http://127.0.0.1:8000/v1") -> AppTest:
    switch(shown, "capture.server").set_value(True).run()
    widget(shown, "capture.server.base_url").set_value(address).run()
    widget(shown, "capture.server.model").set_value("some-model").run()
    widget(shown, "capture.signal").set_value("none").run()
    return widget(shown, "train.loss.0.name").set_value("sft").run()
