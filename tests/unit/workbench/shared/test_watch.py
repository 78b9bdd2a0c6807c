"""The marks by which an open page knows that what it shows has changed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright._impl._driver import compute_driver_executable
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from engine.fileio import append_line, write_json
from engine.paths import home
from engine.runs.process import now, process_identity
from workbench.shared import watch


@pytest.fixture(autouse=True)
def looked_just_now() -> None:
    watch._looked.clear()


def at_work(name: str, phase: str = "train", **status: Any) -> Path:
    folder = home().runs / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "status.json", {"state": "running", "phase": phase, **process_identity(), **status})
    return folder


def marks(*run_ids: str) -> dict[str, Any]:
    return {key: mark for key, mark in watch.marks(home(), run_ids).items() if key != "clock"}


def test_each_mark_changes_with_its_file_alone():
    folder = at_work("one")
    before = marks("one")
    assert marks("one") == before
    append_line(folder / "events.jsonl", {"kind": "started"})
    events = marks("one")
    assert {key for key in before if before[key] != events[key]} == {"events"}
    at_work("one", updated_at=now())
    assert {key for key in before if events[key] != marks("one")[key]} == {"status"}
    (folder / "log.txt").write_text("a line")
    assert marks("one")["log"] != events["log"]


def test_an_end_changes_the_state_also_without_a_word():
    at_work("one")
    assert marks("one")["states"] == {"one": "running"}
    before = marks("one")["state"]
    at_work("one", pid=2**22 + 1, pid_started=1.0)  # its process is gone
    assert marks("one")["states"] == {"one": "interrupted"}
    assert marks("one")["state"] != before


def test_a_new_run_changes_the_folder_of_runs():
    at_work("one")
    before = marks()["runs"]
    at_work("two")
    assert marks()["runs"] != before


def test_pages_of_other_runs_rest_while_one_times():
    at_work("one")
    at_work("two", "speed")
    assert marks("one")["timing"]
    assert marks()["timing"]
    at_work("two", "certificate")
    assert not marks("one")["timing"]


def test_the_address_answers_for_runs_of_this_home_alone(tmp_path: Path):
    at_work("one")
    (tmp_path / "secret").mkdir()
    client = TestClient(Starlette(routes=[Route(watch.PATH, watch.answer)]))
    reply = client.get(watch.PATH, params={"run": ["one", "../../secret", "no-such-run", ""]})
    assert reply.status_code == 200
    assert reply.json()["states"] == {"one": "running"}
    assert reply.headers["cache-control"] == "no-store"
    assert client.get(watch.PATH, params={"run": ["one"] * 500}).status_code == 200


SCRIPT = """
globalThis.window = globalThis;
const { default: watch } = await import('./watch.mjs'), { default: notice } = await import('./notice.mjs');
const wait = (ms) => new Promise((done) => setTimeout(done, ms)), said = [];
const say = (name, value) => said.push([name, value]);
let reply = { timing: false, status: '1', states: { one: 'running' } };
globalThis.document = { hidden: false };
globalThis.fetch = async () => ({ ok: true, json: async () => reply });

const note = { hidden: true }, part = { querySelector: () => note }, redrawn = [];
const mount = (status) => watch({ parentElement: part, setTriggerValue: (name) => redrawn.push(name),
  data: { url: 'x', keys: ['status'], seen: { timing: false, status }, every_s: 0.02 } });
mount('1'); await wait(100); say('unchanged', redrawn.length);
reply = { ...reply, status: '2' }; await wait(100); say('changed', redrawn.length);
mount('2'); await wait(100); say('drawn', redrawn.length);
reply = { ...reply, status: '3', timing: true }; await wait(100); say('timing', [redrawn.length, note.hidden]);
reply = { ...reply, timing: false }; await wait(100); say('timed', [redrawn.length, note.hidden]);
mount('3'); document.hidden = true; reply = { ...reply, status: '4' };
await wait(100); say('hidden tab', redrawn.length);
document.hidden = false; await wait(100); say('seen again', redrawn.length);
mount('4'); globalThis.fetch = async () => { throw new Error('no server'); };
await wait(100); say('no server', redrawn.length);
const end = mount('4'); end();

const button = {}, words = {}, ticks = [], shown = [];
const place = { isConnected: false, querySelector: (name) => (name === 'button' ? button : words) };
button.setAttribute = (name, value) => { button[name] = value; };
globalThis.fetch = async () => ({ ok: true, json: async () => reply });
globalThis.setInterval = (tick) => ticks.push(tick); globalThis.clearInterval = () => {};
globalThis.Notification = class { constructor(title) { shown.push(title); } };
Notification.permission = 'default';
let asked = 0;
Notification.requestPermission = async () => { asked += 1; return Notification.permission = 'granted'; };
notice({ parentElement: place, data: { run: 'one', label: 'A name', url: 'x' } });
say('not asked before a click', asked);
await button.onclick(); say('pressed', [asked, button['aria-pressed'], ticks.length]);
await ticks[0](); say('still running', [...shown]);
reply = { states: { one: 'failed' } }; await ticks[0](); await ticks[0](); say('ended', [...shown]);
Notification.permission = 'denied';
notice({ parentElement: place, data: { run: 'two', label: '', url: 'x' } }); say('denied', button.disabled);
console.log(JSON.stringify(said)); process.exit(0);
"""


def test_the_scripts_redraw_only_what_has_changed_and_tell_of_an_end_once(tmp_path: Path):
    """Both scripts in the engine that Playwright brings, as a page would run them."""
    (tmp_path / "watch.mjs").write_text(watch._WATCH_JS)
    (tmp_path / "notice.mjs").write_text(watch._NOTICE_JS)
    (tmp_path / "test.mjs").write_text(SCRIPT)
    node, _ = compute_driver_executable()
    ran = subprocess.run([node, "test.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stderr == ""
    assert dict(json.loads(ran.stdout)) == {
        "unchanged": 0,
        "changed": 1,
        "drawn": 1,
        "timing": [1, False],
        "timed": [2, True],
        "hidden tab": 2,
        "seen again": 3,
        "no server": 3,
        "not asked before a click": 0,
        "pressed": [1, True, 1],
        "still running": [],
        "ended": ["A name: failed"],
        "denied": True,
    }
