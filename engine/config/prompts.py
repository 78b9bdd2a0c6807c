"""The prompts of a recipe: files, folders or datasets, and the columns they are read from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from engine.config.section import ONE_OR_MANY, Mark, Section


class PromptSource(Section):
    """One file, folder or dataset of prompts, and where its columns are."""

    shorthand = "path"

    path: Annotated[str, Mark(path="file")] = Field(
        min_length=1,
        title="File, folder or dataset",
        description=".jsonl, .json, .csv or .parquet file, a Datasets folder, hub:NAME, or pack:DOMAIN/SCENARIO",
    )
    split: str = Field("train", description="split of a Datasets source")
    revision: str | None = Field(None, title="Version on the hub", description="branch, tag or commit of a hub source")
    config: str | None = Field(
        None, title="Configuration of the dataset", description="configuration name of a Datasets source"
    )
    messages_column: str = Field(
        "messages",
        title="Column of the messages",
        description="column of the chat messages; dots go into objects, as in request.messages",
    )
    tools_column: str = Field("tools", title="Column of the tools", description="column of the tool schemas")
    prompt_column: str = Field(
        "prompt", title="Column of plain text", description="column of plain text, used where there are no messages"
    )
    limit: int | None = Field(
        None, ge=1, title="Prompts, at most", description="take at most this many prompts, in file order"
    )

    def columns(self) -> tuple[str, ...]:
        """The columns, or dotted paths, that a record is read from; of wide tables no others are loaded."""
        return (
            "id",
            "group",
            self.messages_column,
            self.prompt_column,
            *self.tools_columns(),
            *self.system_columns(),
            *(("input", "history") if self.is_alpaca else ()),
        )

    def tools_columns(self) -> tuple[str, ...]:
        """Where tools may stand: unless the user names the column, also where OpenAI's requests have them."""
        if self.tools_column != "tools":
            return (self.tools_column,)
        return tuple(f"{outer}{name}" for outer in ("", self._around_messages) for name in ("tools", "functions"))

    def system_columns(self) -> tuple[str, ...]:
        """Where a system message may stand that is not among the messages: ShareGPT's and Anthropic's form."""
        return ("system", f"{self._around_messages}system")

    @property
    def is_alpaca(self) -> bool:
        """Whether rows are an instruction, perhaps with an `input` to it and a `history` before it."""
        return self.prompt_column == "instruction"

    @property
    def _around_messages(self) -> str:
        """The path of the object around the messages, with its dot; "" if they are a column."""
        outer, dot, _ = self.messages_column.rpartition(".")
        return outer + dot


SourcesField = Annotated[list[PromptSource], ONE_OR_MANY]


class PromptsSpec(Section):
    """The prompts a draft is trained on and those it is measured on."""

    train: SourcesField = Field(
        [], title="Training prompts", description="prompts to train on; none with task: measure"
    )
    heldout: SourcesField = Field(
        min_length=1, title="Held-out prompts", description="prompts to measure on, kept out of training"
    )
    domain: str = Field("general", title="Domain", description="label of the domain, for comparison")
    scenario: Literal["historical", "curated", "synthetic"] = Field(
        "curated", title="Scenario", description="where the training prompts come from"
    )
    skip_bad: bool = Field(False, title="Go on past bad rows", description="skip bad rows and count them")
    max_prompt_tokens: int | None = Field(
        None,
        ge=1,
        title="Longest prompt, tokens",
        description="leave out longer training prompts, in tokens, and longer held-out prompts that leave no room "
        "for an "
        "answer in the context; counted",
    )
    train_prompts: int | None = Field(
        None,
        ge=1,
        title="Training prompts, how many",
        description="train on this many of the training prompts, selected by their ids, so that a smaller set is "
        "part of "
        "a larger one; all if empty",
    )
