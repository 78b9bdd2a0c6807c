"""Reaching a Ray cluster, from its address to a connection.

ray                    what RAY_ADDRESS names, else a Ray that runs on this machine, else one that is started here
ray://HOST:PORT        Ray Client: this machine is no node of the cluster
ray-gcs://HOST:PORT    this machine is a node; what `ray` becomes where RAY_ADDRESS names such a cluster
"""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import DraftbenchError, first_line
from engine.untrusted.yaml_text import read_yaml

SCHEMES = ("ray", "ray-gcs")
_RUNTIME_ENV = "DRAFTBENCH_RAY_RUNTIME_ENV"
_TIMEOUT_S = 5.0
# Ray Client has a process of its own started for each connection, which a busy head does not always manage in time.
_TRIES, _STARTING = 4, "Initialization failure from server"


def full_address(address: str, environment: Mapping[str, str]) -> str:
    """The address with a cluster that RAY_ADDRESS names: it must mean the same to whoever reads it in a run's status.

    Raises DraftbenchError if it is none, or Ray is not installed.
    """
    scheme, separator, rest = address.partition("://")
    if (separator or scheme != "ray") and not _host_and_port(rest):
        raise DraftbenchError(
            f"{address!r} is not the address of a Ray cluster",
            "it needs a host and a port",
            "for example --on ray://head:10001, or --on ray with RAY_ADDRESS=head:6379 in the environment",
        )
    if importlib.util.find_spec("ray") is None:
        raise DraftbenchError(
            "Ray is not installed", f"--on {address} places runs with it", "pip install 'draftbench[cluster]'"
        )
    named = environment.get("RAY_ADDRESS", "")
    if separator or named in ("", "auto", "local"):
        return address
    full = named if named.startswith("ray://") else f"{scheme}-gcs://{named}"
    if "://" in full.partition("://")[2] or not _host_and_port(full.partition("://")[2]):
        why = "http:// is the address of Ray's dashboard, which starts no runs" if named.startswith("http") else ""
        raise DraftbenchError(
            f"RAY_ADDRESS is {named!r}",
            why or "it names no Ray cluster",
            "for example head:6379 on a node of the cluster, or ray://head:10001 elsewhere",
        )
    return full


def check_reachable(address: str) -> None:
    """Raises DraftbenchError if nothing listens at the address; nothing is known of a Ray that is to be started."""
    place = _host_and_port(address.partition("://")[2])
    if place is None:
        return
    try:
        socket.create_connection(place, timeout=_TIMEOUT_S).close()
    except OSError as error:
        raise DraftbenchError(
            f"nothing answers at {address}: {error.strerror or error}",
            "runs cannot be placed there",
            "start the cluster (`ray start --head`), or correct the address",
        ) from None


def connect(address: str) -> None:
    """Connect this process. Raises DraftbenchError if the cluster cannot be reached, or is of another Ray or Python."""
    check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a Ray that is started here: it would report its use
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    scheme, _, rest = address.partition("://")
    where = {"ray": address if rest else None, "ray-gcs": rest}[scheme]
    for left in reversed(range(_TRIES)):
        try:
            ray.init(
                where, log_to_driver=False, logging_level="warning", namespace="draftbench", runtime_env=runtime_env()
            )
            return
        except Exception as error:  # what Ray raises depends on which of its parts refuses
            if left and _STARTING in str(error):
                time.sleep(_TIMEOUT_S)
                continue
            raise DraftbenchError(
                f"could not connect to Ray at {address}: {first_line(error)}",
                "runs wait until it can be reached",
                "the same versions of Python and Ray are needed on all machines; `ray status` shows the cluster",
            ) from error


def runtime_env() -> dict[str, Any] | None:
    """The `runtime_env` for all nodes from the YAML or JSON file that DRAFTBENCH_RAY_RUNTIME_ENV names, if any."""
    name = os.environ.get(_RUNTIME_ENV)
    if not name:
        return None
    values = read_yaml(Path(name))
    if not isinstance(values, dict):
        raise DraftbenchError(f"{_RUNTIME_ENV}: {name} is not a mapping", "", "see Ray's documentation of runtime_env")
    return values


def _host_and_port(text: str) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    return (
        (host.strip("[]"), int(port)) if host and port.isascii() and port.isdecimal() and int(port) < 65_536 else None
    )
