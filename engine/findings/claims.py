"""The claims of "Training Domain Draft Models for Speculative Decoding" (arXiv 2503.07807) as comparisons of runs.

The last two are our own: which loss is best for which way to propose.

What is known of the paper is its abstract and captions, so a band is what those state, and whether it is relative or
absolute is not known but for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.catalogue import supervision_of
from engine.findings import remarks
from engine.findings.claim import ANY_TRAINING, BothSides, Claim, MissingRun, placed_pair
from engine.findings.efforts import EFFORTS, OWN, STEPS, TOKENS, Schedules, efforts_of, schedule
from engine.findings.pairs import Pair, Place, PlacedPair, place_name
from engine.findings.runs import Facts, Run, first_of_each, loss_names
from engine.findings.study_grid import Settings, short_sources
from engine.paths import PROJECT_ROOT

MATCH = {TOKENS: "tokens", STEPS: "steps"}  # kind of effort -> what a study matches to make runs of it
OTHER_LOSSES = ("reverse_kl", "tvd")  # that forward KL is set against first

# What exact acceptance depends on besides the models and the text.
_SAME_RATE = ("measure.top_p", "measure.top_k", "dtype", "device")

_Twins = tuple[Run, Run, str]  # online, offline, kind of effort


def _loss(name: str) -> Callable[[Facts], bool]:
    return lambda facts: facts["loss"] == name


def _is(key: str, value: Any) -> Callable[[Facts], bool]:
    return lambda facts: facts[key] == value


class GenericClaim(Claim):
    """A general draft on its own target against the same draft, untrained, at the start of a domain run."""

    def places(self, runs: Sequence[Run]) -> list[Place]:
        """The draft is known by the hash of its weights, wherever it lies, or by its run's id.

        What the domain run went on to do does not matter, so of all that started from the draft the newest stands for
        its seed.
        """
        bases = [run for run in reversed(runs) if self.is_base(run.facts)]
        general = {name: run for run in bases for name in (run.id, run.draft_sha256) if name}
        places: dict[str, Place] = {}
        for run in runs:
            source = general.get(str(run.facts.get("draft.checkpoint")))
            if source is None or not self.is_other(run.facts) or run.facts["target"] == source.facts["target"]:
                continue  # the same target on other prompts is another question
            if any(run.facts.get(fact) != source.facts.get(fact) for fact in _SAME_RATE):
                continue
            measured = [(name, run.facts[name]) for name in sorted(run.facts) if name.startswith("measure.")]
            place_facts = (
                run.facts["target"],
                source.facts["target"],
                run.facts["domain"],
                run.facts["heldout"],
                measured,
            )
            key = repr(place_facts)
            place = places.setdefault(key, Place({"domain": run.facts["domain"]}, [], key))
            if source.seed not in {pair.seed for pair in place.pairs}:
                place.pairs.append(Pair(((source.id, 1),), ((run.id, 1),), source.seed, other_draft="initial"))
        return list(places.values())

    def remark(self, pairs: Sequence[Pair], known: Mapping[str, Run]) -> str:
        return ""  # a draft is compared with itself: there is no training to speak of

    def start(self, runs: Sequence[Run]) -> Run | None:
        return next((run for run in runs if self.is_base(run.facts)), None)

    def missing(self, start: Run) -> BothSides:
        return BothSides(
            "the general draft under a domain target", {"domain": {"YOUR_DOMAIN": _domain_settings(start)}}
        )

    def counterparts(self, start: Run) -> list[MissingRun]:
        changes = tuple(f"{key}={value}" for key, value in _domain_settings(start).items())
        return [MissingRun("the general draft under a domain target", start.id, changes)]


def _domain_settings(general: Run) -> Settings:
    return {
        "target.model": "YOUR_DOMAIN_MODEL",
        "prompts.domain": "YOUR_DOMAIN",
        "prompts.train": "YOUR_PROMPTS.jsonl",
        "prompts.heldout": "YOUR_HELDOUT.jsonl",
        "draft.init": "checkpoint",
        "draft.checkpoint": general.id,
    }


class ModeClaim(Claim):
    """Offline against online training, at each kind of effort."""

    def pairs(self, group: Sequence[Run], schedules: Schedules) -> list[PlacedPair]:
        """Every stream of the group against the offline run of each kind of effort.

        Where several offline runs are of one kind, the usual schedule is taken; that is ranked over all runs, so it is
        the same one under every seed.
        """
        return [
            PlacedPair(
                place_name(offline) | {"queries": online.facts.get("n_train")},
                Pair(((online.id, 1),), ((offline.id, 1),), offline.seed),
                _schedules(online, offline, effort),
                (schedules.rank(online), schedules.rank(offline)),
                effort,
            )
            for online, offline, effort in _twins(group, schedules)
        ]

    def missing(self, start: Run) -> BothSides:
        grids: list[Settings] = [{"mode": "offline"}, {"mode": "online", "match": list(MATCH.values())}]
        return BothSides(f"no comparable {self.base} and {self.other}", {"mode": _modes(start)}, grids)

    def counterparts(self, start: Run) -> list[MissingRun]:
        mode = "online" if start.facts["train.mode"] == "offline" else "offline"
        return [MissingRun(f"{mode} training", start.id, (f"train.mode={mode}",))]


class LeadClaim(ModeClaim):
    """How offline's lead over online changes with the data: a side is a difference of two runs."""

    def pairs(self, group: Sequence[Run], schedules: Schedules) -> list[PlacedPair]:
        """Offline less online at the least and at the most queries that both were trained on, per kind of effort."""
        leads: dict[tuple[str, str], dict[int, _Twins]] = {}
        for size in sorted({run.facts["n_train"] for run in group if run.facts["n_train"]}):
            for twins in _twins([run for run in group if run.facts["n_train"] == size], schedules):
                if twins[1].facts["loss"] == "forward_kl":  # which is what the claim speaks of
                    leads.setdefault((_schedules(*twins), twins[2]), {})[size] = twins
        pairs = []
        for (name, effort), sizes in leads.items():
            if len(sizes) > 1:
                least, most = min(sizes), max(sizes)
                online, offline, _ = sizes[most]
                sides = [((sizes[size][1].id, 1), (sizes[size][0].id, -1)) for size in (least, most)]
                where = {"queries": f"{least} to {most}", "train.mode": "offline - online"}
                rank = (schedules.rank(online), schedules.rank(offline))
                pair = Pair(sides[0], sides[1], offline.seed)
                pairs.append(PlacedPair(place_name(offline) | where, pair, name, rank, effort))
        return pairs

    def remark(self, pairs: Sequence[Pair], known: Mapping[str, Run]) -> str:
        modes = [replace(pair, base=pair.other[1:], other=pair.other[:1]) for pair in pairs]  # with the most queries
        return remarks.unequal_training(modes, pairs, known)

    def missing(self, start: Run) -> BothSides:
        both = super().missing(start)
        return replace(both, axes=both.axes | {"queries": _two_sizes(start)}, fixed={"train.loss": "forward_kl"})


class LossClaim(Claim):
    """One loss against others."""

    def missing(self, start: Run) -> BothSides:
        if self.breadth[0] == "against":
            return BothSides("no comparable losses", {"loss": ["forward_kl", *OTHER_LOSSES]})
        return BothSides("no comparable sft and forward_kl", {"loss": ["sft", "forward_kl"]})

    def counterparts(self, start: Run) -> list[MissingRun]:
        return [
            MissingRun(f"the same with {name}", start.id, (f"train.loss={name}",))
            for name in self.missing(start).axes["loss"]
            if start.facts["loss"] != name
        ]


class RuleClaim(LossClaim):
    """A loss made for one way to propose against losses made for the other."""

    def missing(self, start: Run) -> BothSides:
        against = ["tvd"] if self.breadth[0] == "against" else []  # else one other loss is all that the claim is about
        return BothSides("no comparable argmax_ce and forward_kl", {"loss": ["argmax_ce", "forward_kl", *against]})


def _sees_the_distribution(facts: Facts) -> bool:
    """Whether it was learnt from more than text, and from more than the likeliest token: argmax_ce counts as neither,
    blended or not. A weight makes no other loss of a single one."""
    names = loss_names(facts["loss"])
    return supervision_of(names) == "white_box" and "argmax_ce" not in names


class ScenarioClaim(Claim):
    """Training prompts of one source against those of another."""

    def missing(self, start: Run) -> BothSides:
        """The prompts of both scenarios: the run's own, and those that come with Draftbench for its domain."""
        prompts, domain = start.config.get("prompts", {}), start.facts["domain"]
        heldout = prompts.get("heldout") or [{}]
        from_pack = str(heldout[0].get("path", "")).startswith("pack:")
        axis: Settings = {}
        for name in ("historical", "synthetic"):
            train = prompts.get("train") if start.facts["scenario"] == name else None
            if train is None:
                shipped = f"sample_data/prompts/{domain}/{name}.jsonl"
                train = shipped if (PROJECT_ROOT / shipped).is_file() else f"YOUR_{name.upper()}_PROMPTS.jsonl"
                train = f"pack:{domain}/{name}" if from_pack and name == "historical" else train
            axis[name] = {"prompts.scenario": name, "prompts.train": short_sources(train)}
        return BothSides("no comparable scenarios", {"scenario": axis})

    def counterparts(self, start: Run) -> list[MissingRun]:
        return [
            MissingRun(
                f"{name} queries",
                start.id,
                (f"prompts.scenario={name}", f"prompts.train=YOUR_{name.upper()}_PROMPTS.jsonl"),
            )
            for name in ("historical", "synthetic")
            if start.facts["scenario"] != name
        ]


class SizeClaim(Claim):
    """Few training queries against many."""

    def pairs(self, group: Sequence[Run], schedules: Schedules) -> list[PlacedPair]:
        """The least against the most queries; runs of sizes between are in the figure."""
        by_size = first_of_each([run for run in group if self.is_base(run.facts)], "n_train")
        sizes = {size: run for (size,), run in by_size.items()}
        if len(sizes) < 2:
            return []
        least, most = min(sizes), max(sizes)
        return [placed_pair(sizes[least], sizes[most], schedules, queries=f"{least} to {most}")]

    def remark(self, pairs: Sequence[Pair], known: Mapping[str, Run]) -> str:
        return remarks.unequal_training(pairs, pairs, known, of_queries=False)

    def missing(self, start: Run) -> BothSides:
        return BothSides("no two sizes of one setting; two domains are needed", {"queries": _two_sizes(start)})

    def counterparts(self, start: Run) -> list[MissingRun]:
        sizes = [max(1, int(start.facts["n_train"] or part) // part) for part in (4, 2)]
        return [
            MissingRun(f"the same with {size:,} queries", start.id, (f"prompts.train_prompts={size}",))
            for size in sizes
        ]


def _two_sizes(run: Run) -> list[int]:
    count = int(run.facts["n_train"] or 4)
    return [max(1, count // 4), count]


def _modes(run: Run) -> Settings:
    """Both modes; a stream replays a capture where the draft's ids are chosen from the target's answers."""
    trimmed = run.config.get("draft", {}).get("vocabulary") is not None
    online = {"train.mode": "online"} | ({"train.online.stream": "replay"} if trimmed else {})
    return {"offline": {"train.mode": "offline"}, "online": online}


def _twins(group: Sequence[Run], schedules: Schedules) -> list[_Twins]:
    """(online, offline, effort): for each stream and kind of effort the offline run to compare it with."""
    twins = []
    for stream in _newest_of_each_schedule(run for run in group if run.facts["train.mode"] == "online"):
        size = stream.facts["n_train"]
        offline = [run for run in group if run.facts["train.mode"] == "offline" and run.facts["n_train"] == size]
        for effort in EFFORTS:
            candidates = [run for run in offline if effort in efforts_of(stream, run)]
            if candidates:
                twins.append((stream, min(candidates, key=schedules.rank), effort))
    return twins


def _newest_of_each_schedule(runs: Iterable[Run]) -> list[Run]:
    newest: dict[str, Run] = {}
    for run in runs:
        newest.setdefault(schedule(run), run)
    return list(newest.values())


def _schedules(online: Run, offline: Run, effort: str) -> str:
    """What the pairs of one place have in common. A matched run's schedule follows from the stream's."""
    return repr((schedule(online), schedule(offline) if effort == OWN else effort))


GENERIC = GenericClaim(
    "generic",
    "1",
    "A generic draft loses acceptance on a domain target",
    "The acceptance of a draft made for a general model drops on a domain model, by up to 38% (a second-hand figure).",
    "the draft on its own general target",
    "the same draft on a domain target",
    lambda facts: facts["domain"] == "general",
    lambda facts: facts["domain"] != "general" and facts["draft.init"] == "checkpoint",
    frozenset(),
    sign=-1,
    band=(-0.38, 0.0),
    paired=False,
    told_apart=False,
    more_is_better=False,  # above the band it is another claim: that a generic draft gains on a domain
)
MODE = ModeClaim(
    "offline",
    "2",
    "Offline training beats online training",
    "Offline distillation outperforms online distillation by 11% to 25%.",
    "online",
    "offline",
    _is("train.mode", "online"),
    _is("train.mode", "offline"),
    frozenset({"train.mode", ANY_TRAINING}),
    sign=1,
    band=(0.11, 0.25),
    by_effort=True,
)
SUPERVISION = LossClaim(
    "white_box",
    "3",
    "White box beats black box",
    "A draft that sees the target's distribution outperforms one that sees only its text by 2% to 10%.",
    "sft (black box)",
    "forward_kl (white box)",
    _loss("sft"),
    _loss("forward_kl"),
    frozenset({"loss"}),
    sign=1,
    band=(0.02, 0.10),
)
SCENARIO = ScenarioClaim(
    "synthetic",
    "4",
    "Synthetic queries nearly replace historical ones",
    "A draft trained on synthetic queries reaches 80% to 93% of one trained on the users' own.",
    "historical queries",
    "synthetic queries",
    _is("scenario", "historical"),
    _is("scenario", "synthetic"),
    frozenset({"scenario", "train_prompts", "n_train"}),
    sign=-1,
    band=(-0.20, -0.07),
    band_of=("relative",),  # "80% to 93% of" is a ratio
    must_differ=frozenset({"train_prompts"}),  # or `scenario` is only another label on the same prompts
)
SIZE = SizeClaim(
    "size",
    "5a",
    "More training queries help, in every domain",
    "Acceptance grows with the number of training queries, in every domain.",
    "fewest queries",
    "most queries",
    lambda facts: bool(facts["n_train"]),
    lambda facts: bool(facts["n_train"]),
    frozenset({"train_prompts", "n_train"}),
    sign=1,
    breadth=("domain", 2),
    told_apart=False,
)
LEAD = LeadClaim(
    "lead",
    "5b",
    "Offline's lead over online grows with the data",
    "The lead of offline forward KL over online forward KL grows with the number of training queries.",
    "lead with the fewest queries",
    "lead with the most queries",
    lambda facts: facts["loss"] == "forward_kl" and facts["train.mode"] == "online",
    lambda facts: facts["loss"] == "forward_kl" and facts["train.mode"] == "offline",
    frozenset({"train_prompts", "n_train", *MODE.varies}),
    sign=1,
    by_effort=True,
    has_ratio=False,
    told_apart=False,
)
BEST_LOSS = LossClaim(
    "best_loss",
    "also",
    "Forward KL is the best loss",
    "Of the losses that see the target's distribution, forward KL gives the highest acceptance.",
    "another white-box loss",
    "forward_kl",
    lambda facts: _sees_the_distribution(facts) and set(loss_names(facts["loss"])) != {"forward_kl"},
    _loss("forward_kl"),
    frozenset({"loss"}),
    sign=1,
    breadth=("against", 2),
)
FOR_SAMPLED = RuleClaim(
    "loss_for_sampled",
    "6a",
    "For sampled proposals, matching the distribution is best",
    "Where the draft draws its proposals, forward KL is accepted more (exact, above temperature 0) than cross-entropy "
    "to the target's likeliest token.",
    "argmax_ce",
    "forward_kl",
    _loss("argmax_ce"),
    _loss("forward_kl"),
    frozenset({"loss"}),
    sign=1,
    above_zero=True,
    of_paper=False,
)
FOR_ARGMAX = RuleClaim(
    "loss_for_argmax",
    "6b",
    "For argmax proposals, cross-entropy to the target's likeliest token is best",
    "Where the draft proposes its likeliest token, as most servers have it, cross-entropy to the target's likeliest "
    "token is accepted more (argmax) than the losses that match the distribution.",
    "a loss that matches the distribution",
    "argmax_ce",
    lambda facts: _sees_the_distribution(facts),
    _loss("argmax_ce"),
    frozenset({"loss"}),
    sign=1,
    breadth=("against", 2),
    rate="argmax",
    of_paper=False,
)

CLAIMS: dict[str, Claim] = {
    claim.key: claim for claim in (GENERIC, MODE, SUPERVISION, SCENARIO, SIZE, LEAD, BEST_LOSS, FOR_SAMPLED, FOR_ARGMAX)
}
