"""A home on a disk of this machine is refused where jobs run on other machines."""

import os
from pathlib import Path

import pytest

from engine.cluster.shared_storage import check_shared, file_system
from engine.errors import DraftbenchError
from engine.paths import Home
from tests.slurm_commands import SlurmCommands
from tests.slurm_commands import slurm as slurm


def test_a_disk_of_this_machine_is_refused_where_other_nodes_work(slurm: SlurmCommands):
    home = Home(Path("/dev/shm/draftbench-home"))  # a tmpfs on every Linux
    assert file_system(home.root) == "tmpfs"
    with pytest.raises(DraftbenchError, match="tmpfs") as refused:
        check_shared(home, "gpu")
    assert "n1, n2" in refused.value.why
    assert [word for word in slurm.calls("sinfo")[0] if "partition" in word] == ["--partition=gpu"]
    (slurm.folder / "nodes").write_text(os.uname().nodename)
    check_shared(home, None)  # the only node is this machine


def test_a_partition_that_is_not_there_and_a_slurm_that_is_silent_say_so(slurm: SlurmCommands):
    (slurm.folder / "nodes").write_text("")
    with pytest.raises(DraftbenchError, match="'typo'"):
        check_shared(Home(Path("/dev/shm/home")), "typo")
    slurm.fail("sinfo", "Unable to contact slurm controller")
    with pytest.raises(DraftbenchError) as silent:
        check_shared(Home(Path("/dev/shm/home")), None)
    assert "Unable to contact" in silent.value.why
