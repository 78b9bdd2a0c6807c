from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest
import torch

from engine.measure.load import LoadMeter, load_of_others


@pytest.mark.slow
def test_the_load_of_others_is_not_that_of_this_process_itself():
    torch.randn(900, 900) @ torch.randn(900, 900)  # own work before, which the system's load average would hold
    assert 0 <= load_of_others(0.05) <= (os.cpu_count() or 1)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            time.sleep(0.3)  # until it runs
            assert load_of_others(0.5) > 0.3
        finally:
            other.kill()


@pytest.mark.slow
def test_the_meter_counts_what_others_do_and_not_this_process_nor_its_children():
    """Own work of about a core, here and in a child: the meter sees it in the machine's time and takes it out."""
    meter = LoadMeter()
    machine, began = psutil.cpu_times(), time.monotonic()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        try:
            while time.monotonic() < began + 1.5:
                sum(range(1000))
            load = meter.read()
            child_s = sum(psutil.Process(child.pid).cpu_times()[:2])
        finally:
            child.kill()
    busy = sum(psutil.cpu_times()[:3]) - sum(machine[:3])
    own = 1.5 + child_s
    assert load.cores == psutil.cpu_count()
    assert 0 <= load.during <= max(0.0, busy / 1.5 - 0.5 * own / 1.5) + 0.3


@pytest.mark.slow
def test_the_meter_sees_a_process_that_is_not_its_child():
    """Started in a session of its own by a process that ends at once, so that it belongs to nobody here."""
    command = [
        sys.executable,
        "-c",
        "import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', "
        "'while True: pass'], stdout=subprocess.DEVNULL, start_new_session=True).pid)",
    ]
    stranger = psutil.Process(int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    try:
        meter = LoadMeter()
        before = sum(stranger.cpu_times()[:2])
        time.sleep(2)
        load, spent = meter.read(), sum(stranger.cpu_times()[:2]) - before
    finally:
        stranger.kill()
    assert load.during > 0.8 * spent / 2 - 0.05 > 0
