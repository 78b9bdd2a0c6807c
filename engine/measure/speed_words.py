"""A timing in words: faster or slower only where the interval says so, and where it was measured.

One place for every report, card and page, so that none calls 1.07 [0.97, 1.18] faster.
"""

from __future__ import annotations

from engine.numbers import LEAST_PROMPTS, is_number, number, times
from engine.records.interval import Interval
from engine.records.provenance import Machine, Provenance
from engine.records.speed import MachineLoad, Speed
from engine.records.summary import Summary

_BUSY = 0.1  # share of the cores that others keep busy, from which times say little


def verdict(ratio: Interval | None) -> str:
    """'faster', 'slower' or 'not clearly faster': whether the whole interval of a ratio is above 1, or below.

    'not known to be faster' without an interval, and with one of so few prompts that it does not hold what it says.
    """
    if (
        ratio is None
        or ratio.n_prompts < LEAST_PROMPTS
        or not all(map(is_number, (ratio.value, ratio.low, ratio.high)))
    ):
        return "not known to be faster"
    if ratio.low > 1:
        return "faster"
    return "slower" if ratio.high < 1 else "not clearly faster"


def describe(speed: Speed) -> str:
    """Each way that was timed and how speculative decoding compares with it; '' if nothing was timed.

    For example: '1.07x plain decoding [1.02, 1.13]: faster; 1.02x Transformers' own generate [0.98, 1.07]: not
    clearly faster'.
    """
    return "; ".join(compared(ratio, name) for ratio, name in timed(speed))


def timed(speed: Speed) -> list[tuple[Interval, str]]:
    """The ratios to every way that was timed beside, with its name."""
    ratios = ((speed.speedup, "plain decoding"), (speed.speedup_over_transformers, "Transformers' own generate"))
    return [(ratio, name) for ratio, name in ratios if ratio is not None]


def compared(ratio: Interval, name: str) -> str:
    """One ratio in words: '1.07x plain decoding [1.02, 1.13]: faster'; 'n = 4' in place of too few prompts' bounds."""
    return f"{times(ratio, name)}: {verdict(ratio)}"


def is_busy(load: float, cores: int | None) -> bool:
    """Whether so many cores kept busy by other processes spoil a timing: more than a tenth of the machine's."""
    return load > _BUSY * (cores or 1)


def load_words(speed: Speed) -> str:
    """'the machine was busy: other processes kept 1.2 of 2 cores busy', 'load not recorded'; '' if it was idle."""
    load = speed.load or MachineLoad()
    if not is_number(load.during):
        return "load not recorded"
    if not is_busy(load.during, load.cores):
        return ""
    of = f" of {load.cores}" if load.cores else ""
    return f"the machine was busy: other processes kept {number(load.during, 1)}{of} cores busy"


def measured_where(summary: Summary, provenance: Provenance) -> str:
    """The machine a measurement was made on: 'AMD EPYC, 2 cores, 2 threads, bfloat16 on cpu'.

    What is not on record is left out; '' if nothing is. Of a timing it ends with `load_words`.
    """
    machine, conditions = provenance.measured_on or Machine(), summary.conditions
    threads = (summary.speed and summary.speed.threads) or conditions.threads or machine.threads
    words = machine_words(machine, conditions.device, conditions.dtype, threads)
    words = f"{words} ({conditions.placed})" if conditions.placed else words
    return ", ".join(filter(None, (words, load_words(summary.speed)))) if summary.speed and words else words


def machine_words(
    machine: Machine, device: str | None, dtype: str | None, threads: int | None, quantize: str | None = None
) -> str:
    """A machine and how it computed: 'AMD EPYC, 2 cores, 2 threads, bfloat16 on cpu'; what is None is left out."""
    if device == "cuda" and machine.cuda:
        parts = [", ".join(dict.fromkeys(machine.cuda))]
    else:
        parts = [machine.processor, _count(machine.cores, "core")]
    if device != "cuda":
        parts.append(_count(threads, "thread"))
    precision = f"{dtype} with {quantize} weights" if dtype and quantize else dtype
    parts.append(f"{precision} on {device}" if precision and device else precision or device or "")
    return ", ".join(filter(None, parts))


def _count(number: int | None, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}" if number else ""
