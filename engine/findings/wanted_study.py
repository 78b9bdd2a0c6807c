"""The study that would decide a claim, as a recipe for `draftbench study`, derived from the runs at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from engine.findings.claims import BEST_LOSS, GENERIC, LEAD, MODE, SCENARIO, SIZE, SUPERVISION
from engine.findings.efforts import STEPS, TOKENS
from engine.findings.evaluate import Cell, Finding
from engine.findings.pairs import Run
from engine.findings.study_grid import Settings, WantedStudy, grid_of, short_sources, written
from engine.findings.verdicts import ENOUGH_SEEDS, FEW, NOT
from engine.paths import PROJECT_ROOT

_LOSSES = ("forward_kl", "reverse_kl", "tvd")
_MATCH = {TOKENS: "tokens", STEPS: "steps"}


def wanted_study(finding: Finding, runs: Sequence[Run], runs_folder: Path | None = None) -> WantedStudy | None:
    """What would decide the finding; None if it is decided, or if there is no run to start from.

    `runs`: those that took part, newest first; the study's base is the recipe of one of them in `runs_folder`.
    """
    if not runs:
        return None
    folder = runs_folder or Path("RUNS")
    known = {run.id: run for run in runs}
    if finding.claim is GENERIC:
        return _generic(finding, runs, folder)
    counted = [cell for cell in finding.headline.cells if cell.counts]
    short = [cell for cell in counted if len(cell.by_seed) < ENOUGH_SEEDS]
    if short:
        return _more_seeds(finding, short, known, folder)
    if counted:
        return _more_places(finding, known, folder)
    return _counterpart(finding, runs, folder)


def _more_seeds(finding: Finding, short: Sequence[Cell], known: Mapping[str, Run], folder: Path) -> WantedStudy:
    """The same grid under the seeds that it lacks."""
    places = {repr(sorted(cell.where.items(), key=str)) for cell in short}
    cells = [c for c in finding.cells if c.counts and repr(sorted(c.where.items(), key=str)) in places]
    made = {run: known[run] for cell in cells for run in cell.runs}
    have = max(len(cell.by_seed) for cell in short)
    seeds = _new_seeds(made.values(), ENOUGH_SEEDS - have)
    missing = [_MATCH[o.effort] for o in finding.outcomes if o.effort in _MATCH and not o.cells]
    name = f"{finding.claim.key}-seeds".replace("_", "-")
    why = f"{have} of {ENOUGH_SEEDS} seeds: the same grid under {len(seeds)} more"
    return grid_of(name, why, list(made.values()), seeds, folder, missing)


def _more_places(finding: Finding, known: Mapping[str, Run], folder: Path) -> WantedStudy | None:
    """What is missing though every comparison has its seeds: another loss, or runs of equal effort."""
    claim, cells = finding.claim, [cell for cell in finding.headline.cells if cell.counts]
    start = known[cells[0].runs[-1]]
    seeds = sorted({int(known[run].facts["train.seed"]) for run in cells[0].runs})
    missing = [_MATCH[o.effort] for o in finding.outcomes if o.effort in _MATCH and not o.cells]
    if missing:
        made = [known[run] for run in dict.fromkeys(run for cell in cells for run in cell.runs)]
        return grid_of(f"{claim.key}-effort", "no run of equal effort yet", made, seeds, folder, missing)
    against = {cell.where.get("against") for cell in cells}
    if claim is BEST_LOSS and len(against) < claim.breadth[1] and finding.verdict != NOT:
        axes: Settings = {"loss": [name for name in _LOSSES if name not in against and name != "forward_kl"][:1]}
        return _simple(finding, "it must beat another loss too", start, axes, seeds, folder)
    return None


def _counterpart(finding: Finding, runs: Sequence[Run], folder: Path) -> WantedStudy | None:
    """Both sides of a claim that no two runs can be compared for, under three seeds, from the newest run that fits."""
    claim = finding.claim
    start = next((run for run in runs if claim.is_other(run.facts)), None)
    start = start or next((run for run in runs if claim.is_base(run.facts)), runs[0])
    seeds = list(range(ENOUGH_SEEDS))
    count = int(start.facts["n_train"] or 4)
    queries = [max(1, count // 4), count]
    if claim in (MODE, LEAD):
        axes: Settings = {"mode": _modes(start)} | ({"queries": queries} if claim is LEAD else {})
        grids: list[Settings] = [{"mode": "offline"}, {"mode": "online", "match": list(_MATCH.values())}]
        loss = {"train.loss": "forward_kl"} if claim is LEAD else {}
        return _simple(
            finding, f"no comparable {claim.base} and {claim.other}", start, axes, seeds, folder, grids, loss
        )
    choices: dict[str, tuple[str, Settings]] = {
        SUPERVISION.key: ("no comparable sft and forward_kl", {"loss": ["sft", "forward_kl"]}),
        BEST_LOSS.key: ("no comparable losses", {"loss": list(_LOSSES)}),
        SIZE.key: ("no two sizes of one setting; two domains are needed", {"queries": queries}),
        SCENARIO.key: ("no comparable scenarios", {"scenario": _scenarios(start)}),
    }
    why, axes = choices[claim.key]
    return _simple(finding, why, start, axes, seeds, folder)


def _modes(run: Run) -> Settings:
    """Both modes; a stream replays a capture where the draft's ids are chosen from the target's answers."""
    trimmed = run.config.get("draft", {}).get("vocabulary") is not None
    online = {"train.mode": "online"} | ({"train.online.stream": "replay"} if trimmed else {})
    return {"offline": {"train.mode": "offline"}, "online": online}


def _scenarios(run: Run) -> Settings:
    """Training prompts of both scenarios: the run's own, and those that come with Draftbench for its domain."""
    found: Settings = {}
    for name in ("historical", "synthetic"):
        shipped = f"sample_data/prompts/{run.facts['domain']}/{name}.jsonl"
        train = run.config.get("prompts", {}).get("train") if run.facts["scenario"] == name else None
        if train is None:
            train = shipped if (PROJECT_ROOT / shipped).is_file() else f"YOUR_{name.upper()}_PROMPTS.jsonl"
            train = f"pack:{run.facts['domain']}/{name}" if _is_pack(run) and name == "historical" else train
        found[name] = {"prompts.scenario": name, "prompts.train": short_sources(train)}
    return found


def _is_pack(run: Run) -> bool:
    heldout = run.config.get("prompts", {}).get("heldout") or [{}]
    return str(heldout[0].get("path", "")).startswith("pack:")


def _generic(finding: Finding, runs: Sequence[Run], folder: Path) -> WantedStudy | None:
    """More general drafts: each is another seed of the claim, once a domain run starts from it."""
    base = next((run for run in runs if GENERIC.is_base(run.facts)), None)
    short = [cell for cell in finding.cells if len(cell.by_seed) < ENOUGH_SEEDS]
    if base is None or (finding.cells and not short):
        return None
    if not finding.cells:
        axes: Settings = {
            "domain": {
                "YOUR_DOMAIN": {
                    "prompts.domain": "YOUR_DOMAIN",
                    "target.model": "YOUR_DOMAIN_MODEL",
                    "prompts.train": "YOUR_PROMPTS.jsonl",
                    "prompts.heldout": "YOUR_HELDOUT.jsonl",
                    "draft.init": "checkpoint",
                    "draft.checkpoint": base.id,
                }
            }
        }
        return _simple(finding, "the general draft under a domain target", base, axes, [0], folder)
    have = max(len(cell.by_seed) for cell in short)
    source = next(run for run in runs if run.id == short[0].pairs[0].base[0][0])
    why = (
        f"{have} of {ENOUGH_SEEDS} seeds: {ENOUGH_SEEDS - have} more general drafts; then, from each, a run a domain "
        "with draft.checkpoint=ITS_RUN_ID and train.max_steps=1, which measures it untrained"
    )
    return _simple(finding, why, source, {}, _new_seeds([source], ENOUGH_SEEDS - have), folder)


def _new_seeds(runs: Iterable[Run], how_many: int) -> list[int]:
    used = {str(run.facts["train.seed"]) for run in runs}
    return [seed for seed in range(1000) if str(seed) not in used][: max(1, how_many)]


def _simple(
    finding: Finding,
    why: str,
    start: Run,
    axes: Settings,
    seeds: list[int],
    folder: Path,
    grids: list[Settings] | None = None,
    fixed: Settings | None = None,
) -> WantedStudy:
    """A full grid over some axes, everything else as in one run."""
    every = axes | {"seed": seeds}
    n_runs = 1
    for values in every.values():
        n_runs *= len(values)
    if grids and any("match" in grid for grid in grids):
        n_runs *= 2  # each online run brings an offline one of its tokens and one of its steps
    return written(finding.claim.key.replace("_", "-"), why, start, every, grids or [], n_runs, folder, fixed or {})


def undecided(finding: Finding) -> bool:
    """Whether more runs could change what is said of the claim."""
    cells = [cell for cell in finding.headline.cells if cell.counts]
    return finding.verdict == FEW or any(len(cell.by_seed) < ENOUGH_SEEDS for cell in cells)
