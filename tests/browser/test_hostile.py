"""Text of users and models is text: on no page, and not in the report, does any of it run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from engine.fileio import write_json
from engine.paths import Home
from engine.runs.folder import RunFolder
from engine.runs.labels import change_labels
from engine.runs.samples import sample_folders
from tests.browser import harness
from workbench.shared.pages import PAGES, link

EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>"\'`$x$ **b** [a](javascript:alert(1))'


@pytest.fixture
def hostile_home(home: Path) -> tuple[Path, list[str]]:
    """Two sample runs whose every free text is an attack."""
    there = Home(home)
    ids = []
    for folder in sample_folders()[:2]:
        place = there.run(folder.name)
        shutil.copytree(folder, place)
        config = yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
        config["prompts"]["domain"] = config["notes"] = EVIL
        (place / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        change_labels(there, RunFolder(place), title=EVIL[:120], notes=EVIL, tags=[EVIL])
        (place / "log.txt").write_text(EVIL, encoding="utf-8")
        for name, column in (("prompts", "text"), ("prompts", "group"), ("tokens", "text")):
            path = place / "measure" / f"{name}.parquet"
            table = pd.read_parquet(path)
            table[column] = EVIL
            table.to_parquet(path, index=False)
        ids.append(place.name)
    failed = there.run("failed-run")
    shutil.copytree(there.run(ids[0]), failed)
    shutil.rmtree(failed / "measure")
    write_json(failed / "status.json", {"state": "failed", "error": {"what": EVIL, "why": EVIL, "fix": EVIL}})
    return home, [*ids, "failed-run"]


def test_no_text_of_a_run_is_ever_run(hostile_home: tuple[Path, list[str]], real_cache: Path, tmp_path: Path):
    home, (first, second, failed) = hostile_home
    server = harness.start(home, tmp_path / "server.log", samples=False)
    prompt = pd.read_parquet(home / "runs" / first / "measure" / "tokens.parquet").prompt_id.iloc[0]
    views = [
        *(link(name) for name in PAGES),
        link("run", run=first),
        link("run", run=failed),
        link("launch", **{"from": first}),
        *(
            link("compare", runs=[first, second], view=view)
            for view in ("Rates", "Slices", "Prompts", "Configuration", "Report")
        ),
        link("replay", run=first, temperature=1.0, prompt=prompt, round=1),
        link("live", run=first, prompt=EVIL),
        link("runs", q=EVIL),
        link("run", run=EVIL),
        link("run", run="../../etc/passwd"),
        link("replay", trace="../../../etc/passwd"),
    ]
    try:
        with harness.browser() as visitor:
            page = visitor.page()
            for view in views:
                page.goto(server.url + view)
                harness.settle(page)
                page.wait_for_timeout(200)  # for handlers of broken images
                for frame in page.frames:
                    assert frame.evaluate("window.hacked") is None, view
                    assert frame.locator("img[src=x]").count() == 0, view
                assert page.get_by_text("root:x:0").count() == 0, view
                assert "This is a bug in Draftbench" not in page.content(), view
    finally:
        server.stop()
