"""A server as a process: it is waited for, its death and its silence are explained, and it never outlives the block."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import psutil
import pytest

from engine.deploy.server_process import Program, running
from engine.errors import DraftbenchError

pytestmark = pytest.mark.slow

# Answers after `wait` seconds and, as some servers do, has a child that does the work and ignores SIGTERM.
SERVER = """
import http.server, signal, subprocess, sys, time
port = int(sys.argv[sys.argv.index("--port") + 1])
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
print("loads the weights", flush=True)
time.sleep(float(sys.argv[1]))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def program(code: str, *arguments: str) -> Program:
    return Program((sys.executable, "-c", code, *arguments), {})


def alive(group: int) -> list[int]:
    """Members of a process group that are not just waiting to be collected."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def test_it_answers_inside_the_block_and_is_gone_with_its_children_after_it(tmp_path: Path):
    with running(program(SERVER, "0.5"), tmp_path / "logs" / "x.log", health="/health", startup_s=30) as server:
        assert httpx2.get(server.base_url + "/health", trust_env=False).status_code == 200
        assert server.base_url.startswith("http://127.0.0.1:")
        assert len(alive(server.pid)) == 2
        assert server.startup_s >= 0.5
    assert alive(server.pid) == []
    assert server.log.read_text() == "loads the weights\n"


def test_an_error_inside_the_block_ends_it_too(tmp_path: Path):
    with (
        pytest.raises(ValueError, match="ours"),
        running(program(SERVER, "0"), tmp_path / "x.log", health="/health", startup_s=30) as server,
    ):
        raise ValueError("ours")
    assert alive(server.pid) == []


def test_a_server_that_ends_is_explained_by_its_last_lines(tmp_path: Path):
    code = "import sys; print('no such model \\x1b[31m'); sys.exit(3)"
    with (
        pytest.raises(DraftbenchError, match=r"ended with status 3") as caught,
        running(program(code), tmp_path / "x.log", health="/health", startup_s=30),
    ):
        pass
    assert "no such model" in caught.value.why
    assert "\x1b" not in caught.value.why


def test_the_error_that_ended_it_is_shown_however_much_it_wrote_afterwards(tmp_path: Path):
    code = "print('ValueError: no memory for the cache'); print('at line 3\\n' * 200); raise SystemExit(1)"
    with (
        pytest.raises(DraftbenchError) as caught,
        running(program(code), tmp_path / "x.log", health="/health", startup_s=30),
    ):
        pass
    assert "ValueError: no memory for the cache" in caught.value.why
    assert len(caught.value.why.splitlines()) == 10


def test_a_server_that_never_answers_is_given_up(tmp_path: Path):
    with (
        pytest.raises(DraftbenchError, match="did not answer within 1 s"),
        running(program("import time; time.sleep(60)"), tmp_path / "x.log", health="/health", startup_s=1),
    ):
        pass


def test_a_program_that_is_none_is_refused(tmp_path: Path):
    missing = Program((str(tmp_path / "llama-server"),), {})
    with (
        pytest.raises(DraftbenchError, match="cannot be started"),
        running(missing, tmp_path / "x.log", health="/health", startup_s=1),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_us_ends_the_server(tmp_path: Path, number: signal.Signals):
    code = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background begins without it
sys.path.insert(0, {str(Path.cwd())!r})
from pathlib import Path
from engine.deploy.server_process import Program, running
program = Program((sys.executable, "-c", {SERVER!r}, "0"), {{}})
with running(program, Path({str(tmp_path / "x.log")!r}), health="/health", startup_s=30) as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    group = int(process.stdout.readline())
    assert alive(group)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    deadline = time.monotonic() + (15 if number == signal.SIGKILL else 5)  # killed, a process beside us has to see it
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive(group) == []
