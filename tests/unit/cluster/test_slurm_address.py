"""Addresses of Slurm: what they name, and that nothing in one reaches a shell."""

from pathlib import Path

import pytest

from engine.cluster.slurm_address import Site, read_address, with_site_file
from engine.cluster.slurm_jobs import job_options
from engine.config.resources import ResourcesSpec
from engine.errors import DraftbenchError
from engine.paths import Home


def test_an_address_names_a_partition_and_options_of_sbatch():
    assert read_address("slurm") == Site()
    site = read_address("slurm://gpu?account=lab&constraint=a100%26nvlink&array_parallelism=8&shared=yes")
    assert site.options == {"partition": "gpu", "account": "lab", "constraint": "a100&nvlink", "array_parallelism": 8}
    assert (site.shared, site.executor) == (True, "slurm")


@pytest.mark.parametrize(
    "address",
    [
        "slurm://gpu?account=a%0Arm -rf x",  # a second line of the batch script
        "slurm://gpu?account=$(reboot)",
        "slurm://gpu?setup=reboot",
        "slurm://gpu?python=/tmp/x",
        "slurm://gpu%0Areboot",
        "slurm://gpu\nreboot",
        "slurm://gpu/x",
        "slurm://gpu?acount=lab",
        "slurm://gpu?signal_delay_s=soon",
        "slurm://gpu?executor=other",
        "slurmgpu",
    ],
)
def test_an_address_that_a_shell_could_run_or_that_is_misspelt_is_refused(address: str):
    with pytest.raises(DraftbenchError):
        read_address(address)


def test_the_file_of_a_site_holds_what_an_address_cannot(tmp_path: Path):
    (tmp_path / "slurm.yaml").write_text("setup: [module load cuda]\naccount: lab\npartition: cpu\n")
    site = with_site_file(read_address("slurm://gpu"), Home(tmp_path))
    assert site.options == {"setup": ["module load cuda"], "account": "lab", "partition": "gpu"}
    (tmp_path / "slurm.yaml").write_text("mem: 4GB\n")
    with pytest.raises(DraftbenchError, match="mem"):
        with_site_file(read_address("slurm"), Home(tmp_path))
    (tmp_path / "slurm.yaml").write_text("[1, 2")
    with pytest.raises(DraftbenchError, match=r"slurm\.yaml"):
        with_site_file(read_address("slurm"), Home(tmp_path))


def test_resources_become_options_of_a_job():
    wanted = ResourcesSpec(gpus=0.5, cpus=4, memory_gb=24, minutes=90)
    options = job_options(wanted, read_address("slurm://gpu?account=lab"), name="a b", after="7")
    assert options == {
        "partition": "gpu",
        "account": "lab",
        "job_name": "a-b",
        "time": 90,
        "cpus_per_task": 4,
        "srun_args": ["--cpus-per-task=4"],
        "gpus_per_node": 1,
        "mem": "22889M",
        "dependency": "afterany:7",
    }
    typed = job_options(ResourcesSpec(gpus=1), read_address("slurm://gpu?gres=gpu:a100:1"), name="x")
    assert "gpus_per_node" not in typed
    assert typed["time"] is None


def test_a_time_limit_that_leaves_no_time_is_refused():
    with pytest.raises(DraftbenchError, match=r"resources\.minutes is 2"):
        job_options(ResourcesSpec(minutes=2), read_address("slurm"), name="x")
    assert job_options(ResourcesSpec(minutes=2), read_address("slurm://?signal_delay_s=30"), name="x")["time"] == 2
