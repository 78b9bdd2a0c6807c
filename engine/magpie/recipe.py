"""The schema of a recipe for synthetic prompts: the target, its steering, and the filters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from engine.config.schema import MOST_TOKENS, ModelSpec, Section, SourcesField
from engine.config.section import TEMPERATURE


def _texts(value: Any) -> Any:
    """Turn a single text or null into a list, and strip texts: blanks around them would change the tokens."""
    values = value if isinstance(value, list) else [value]
    return [text.strip() if isinstance(text, str) else text for text in values]


class FilterSpec(Section):
    """Conditions for keeping a query."""

    min_characters: int = Field(8, ge=1, description="a shorter query is dropped")
    max_characters: int = Field(800, ge=1, description="a longer query is dropped")
    script: Literal["any", "latin", "han", "cyrillic", "arabic", "devanagari", "hangul"] = Field(
        "any", description="script that the query must be written in"
    )
    script_share: float = Field(0.5, gt=0, le=1, description="share of a query's letters in that script, at least")
    distinct_share: float = Field(
        0.6, ge=0, le=1, description="share of distinct character 8-grams, at least; a loop has few; 0 is off"
    )
    near_duplicate: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of character 5-grams from which a query repeats another"
    )

    @model_validator(mode="after")
    def _bounds_fit(self) -> FilterSpec:
        if self.min_characters > self.max_characters:
            raise ValueError(f"min_characters {self.min_characters} is above max_characters {self.max_characters}")
        return self


class MagpieRecipe(Section):
    """Prompts that the target writes itself [Magpie, arXiv 2406.08464]."""

    name: str = Field("synthetic", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="start of the work folder")
    domain: str = Field(
        "general", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="part of every prompt's id"
    )
    target: ModelSpec = Field(ModelSpec(), validate_default=True, description="the model that writes the queries")
    system: Annotated[list[str | None], BeforeValidator(_texts)] = Field(
        [None],
        min_length=1,
        description="system prompts that steer the domain, used in turn; null stands for the template's own default",
    )
    openings: Annotated[list[str | None], BeforeValidator(_texts)] = Field(
        [None],
        min_length=1,
        description="first words of the user's turn, which the target goes on from; all are used, in an order drawn "
        "by seed, before one is used again; null lets the target begin",
    )
    openings_from_tools: bool = Field(
        False,
        description="whether an opening goes on with the name of an offered tool: 'Can you' with search_flights "
        "is 'Can you search flights'; null stays open",
    )
    tools_from: SourcesField = Field(
        [], description="prompts whose tool schemas are offered, one set a query, drawn by seed; empty offers none"
    )
    max_tools_characters: int = Field(3000, ge=1, description="tool sets whose JSON is longer are left out")
    queries: int = Field(200, ge=1, le=10_000_000, description="raw queries to write, before the filters")
    temperature: Annotated[float, TEMPERATURE] = Field(1.0, gt=0, le=10, description="of the draws")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 is off")
    top_k: int = Field(0, ge=0, le=MOST_TOKENS, description="0 is off")
    max_new_tokens: int = Field(
        96, ge=1, le=MOST_TOKENS, description="a query that has not ended by then is dropped, tokens"
    )
    seed: int = Field(0, ge=0, description="seed of the draws and of the choice of tools")
    batch_size: int = Field(64, ge=1, description="queries written at once; a kill loses one batch")
    first_sentence: bool = Field(
        False, description="whether a query is cut after its first sentence; for targets that seldom end a turn"
    )
    filters: FilterSpec = FilterSpec()
    heldout: SourcesField = Field([], description="queries like these are dropped: drafts are measured on them")
    licence: str = Field("", description="licence of the written queries, copied into every record")

    @model_validator(mode="after")
    def _texts_say_something(self) -> MagpieRecipe:
        if "" in self.system:
            raise ValueError("a system prompt is empty; null stands for the template's own default")
        if "" in self.openings:
            raise ValueError("an opening is empty; null lets the target begin")
        if self.openings_from_tools and not self.tools_from:
            raise ValueError("openings_from_tools is on, but tools_from offers no tools")
        return self
