"""The address of a Slurm cluster: `slurm`, or `slurm://PARTITION?account=...&qos=...`, and the options of a home.

A key after `?` is an option of submitit's Slurm executor, which are those of `sbatch` with `_` for `-`. A run keeps its
address, and the folder of a run may come from somebody else, so an address can hold nothing that a shell would run.
What every job of a site needs (commands that load modules, a container) stands in `slurm.yaml` in the home, under the
same names.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import DraftbenchError, did_you_mean
from engine.paths import Home
from engine.untrusted.yaml_text import read_yaml

SCHEME = "slurm"
SITE_FILE = "slurm.yaml"
# Their values are text or one number. The other options of submitit are Draftbench's own, or lines of a shell.
_OF_ADDRESS = ("account", "qos", "constraint", "exclude", "nodelist", "gres", "wckey")
_NUMBERS = ("array_parallelism", "signal_delay_s", "max_num_timeout")
_OF_FILE = (
    *("partition", *_OF_ADDRESS, *_NUMBERS),
    *("setup", "teardown", "python", "srun_args", "additional_parameters", "mail_type", "mail_user", "exclusive"),
)
_OURS = {"executor": ("slurm", "local"), "shared": ("no", "yes")}
_PLAIN = re.compile(r"[\w.,:+@%/&|*()\[\]=-]{1,200}", re.ASCII)
_PARTITION = re.compile(r"[\w.,-]{1,100}", re.ASCII)
_EXAMPLE = "for example slurm://gpu?account=lab&qos=normal"


@dataclass(frozen=True)
class Site:
    """Where and how jobs are submitted.

    options: for submitit's executor, by its names. shared: the home is on storage that all nodes see, whatever it looks
    like from here. executor: 'local' starts jobs as processes of this machine, to try things out without a cluster.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    executor: str = "slurm"
    shared: bool = False


def read_address(address: str) -> Site:
    """The site of an address. Raises DraftbenchError for an option that is not known, or a value that is not plain."""
    parts = urllib.parse.urlsplit(address)
    whole = address == SCHEME or address.startswith(f"{SCHEME}://")
    if not whole or not address.isprintable() or parts.path not in ("", SCHEME) or parts.fragment:
        raise _wrong(address, "it is not of the form slurm://PARTITION?option=value")
    if parts.netloc and not _PARTITION.fullmatch(parts.netloc):
        raise _wrong(address, f"{parts.netloc!r} is not the name of a partition")
    options: dict[str, Any] = {"partition": parts.netloc} if parts.netloc else {}
    ours = {}
    for key, value in urllib.parse.parse_qsl(parts.query, keep_blank_values=True):
        if key in _OURS:
            if value not in _OURS[key]:
                raise _wrong(address, f"{key} is {value!r}; it can be {' or '.join(_OURS[key])}")
            ours[key] = value
        elif key in _NUMBERS:
            options[key] = _whole(address, key, value)
        elif key in _OF_ADDRESS:
            options[key] = _plain(address, value)
        else:
            fix = did_you_mean(key, (*_OF_ADDRESS, *_NUMBERS, *_OURS))
            raise DraftbenchError(
                f"the address {address} has an option {key!r}",
                "an address takes options of sbatch that are plain values",
                f"{fix}; other options of submitit belong in {SITE_FILE} in the home" if key in _OF_FILE else fix,
            )
    return Site(options, ours.get("executor", "slurm"), ours.get("shared") == "yes")


def with_site_file(site: Site, home: Home) -> Site:
    """The site with the options of the home's `slurm.yaml` under those of its address.

    Raises DraftbenchError if the file cannot be read, or names an option that is not known.
    """
    path = home.root / SITE_FILE
    if not path.exists():
        return site
    options = read_yaml(path) or {}
    if not isinstance(options, dict):
        raise DraftbenchError(f"{path} is not a list of options", "", "write a line per option, such as `account: lab`")
    for key in options:
        if key not in _OF_FILE:
            raise DraftbenchError(
                f"{path} has an option {key!r}",
                "GPUs, cores, memory and time of a job come from the recipe's section resources",
                did_you_mean(str(key), _OF_FILE),
            )
    return Site({**options, **site.options}, site.executor, site.shared)


def _plain(address: str, value: str) -> str:
    if not _PLAIN.fullmatch(value):
        raise _wrong(address, f"{value!r} is not a plain value: letters, digits and .,:+@%/&|*()[]=-")
    return value


def _whole(address: str, key: str, value: str) -> int:
    if not value.isascii() or not value.isdecimal() or len(value) > 6:
        raise _wrong(address, f"{key} is {value!r}, not a whole number")
    return int(value)


def _wrong(address: str, why: str) -> DraftbenchError:
    return DraftbenchError(f"the address {address!r} names no Slurm cluster", why, _EXAMPLE)
