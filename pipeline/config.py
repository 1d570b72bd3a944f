"""Config: YAML, then overrides, then a validated chain. Reports every problem at once.

    name: quickstart
    device: auto
    seed: 0
    stages:
      - augment: {dataset: digits, size: 32}
      - train:   {model: resnet18, epochs: 8}
      - student: {uses: train, model: resnet10t}     # a stage under another name

Beside a stage's own settings every entry may carry ``uses:`` (the stage behind the name: an
installed one or a dotted path ``package.module:Class``) and ``inputs:`` (names of earlier entries
whose artifacts it takes, where more than one would fit).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError, Problem, nearest
from pipeline.overrides import apply_overrides
from pipeline.stage import Stage, StageConfig, load_stage
from pipeline.validation import find_place, problems_of, validate
from pipeline.yaml_source import Node, Plain, parse_yaml, read_yaml

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class RunSettings(BaseModel):
    """The settings of a whole run; `stages` are validated by the stages themselves."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )

    name: str = Field(pattern=NAME_PATTERN)
    """Name of the run; its folder is ``runs/<name>``."""
    description: str = ""
    """A sentence for the report."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seeds every random choice; the same seed gives the same run on the same machine."""
    max_drop: float | None = Field(default=None, ge=0, le=100)
    """Accuracy budget: points of top-1 that may be lost from the first hop to the last."""
    artifacts_from: str | None = None
    """Folder of another run whose artifacts stand in for stages that are not in this chain."""


@dataclass(frozen=True, kw_only=True)
class StageEntry:
    """One entry of the chain, validated."""

    name: str
    uses: str
    stage: type[Stage]
    config: StageConfig
    inputs: tuple[str, ...]
    node: Node
    """Where it stands, for messages."""

    def build(self) -> Stage:
        """Return the stage with its settings."""
        return cast(Callable[[StageConfig], Stage], self.stage)(self.config)

    def problem(self, problem: Problem) -> Problem:
        """Give a problem that a stage found in its own settings its place in the file."""
        keys = problem.path.split(".") if problem.path else []
        place = find_place(self.node, keys)
        return place.problem(problem.message, ".".join(["stages", self.name, *keys]))


@dataclass(frozen=True, kw_only=True)
class ChainConfig:
    """A whole configuration, validated."""

    settings: RunSettings
    stages: tuple[StageEntry, ...]
    file: str
    node: Node

    def resolved(self) -> Plain:
        """Return the configuration with every default written out, as it is saved with the run."""
        top = self.settings.model_dump(mode="json")
        entries: list[Plain] = []
        for entry in self.stages:
            settings = entry.config.model_dump(mode="json")
            if entry.uses != entry.name:
                settings = {"uses": entry.uses} | settings
            if entry.inputs:
                settings = {"inputs": list(entry.inputs)} | settings
            entries.append({entry.name: settings})
        return {**top, "stages": entries}


class InvalidChain(ConfigError):
    """A configuration with problems; what is right of it can still be checked further."""

    def __init__(self, problems: Sequence[Problem], entries: Sequence[StageEntry]) -> None:
        super().__init__(problems)
        self.entries = tuple(entries)


def load_config(path: Path, overrides: Sequence[str] = ()) -> ChainConfig:
    """Read, override and validate a configuration file.

    Modules beside the file can be imported, so that a stage or model of one's own needs no package.

    Raises:
        ConfigError: with every problem that was found.
    """
    make_importable(path.parent)
    return validate_chain(apply_overrides(read_yaml(path), overrides), file=str(path))


def make_importable(folder: Path) -> None:
    """Let modules in a folder be imported, after everything that is installed."""
    entry = str(folder.resolve())
    if entry not in sys.path:
        sys.path.append(entry)


def parse_config(text: str, overrides: Sequence[str] = (), *, file: str = "text") -> ChainConfig:
    """Like `load_config`, for YAML that is at hand as text."""
    return validate_chain(apply_overrides(parse_yaml(text, file=file), overrides), file=file)


def validate_chain(root: Node, *, file: str) -> ChainConfig:
    """Validate a tree: top-level settings, every stage's settings, and the order of the stages."""
    if root.value is None:
        raise ConfigError([root.place.problem("is empty. `dlpipe init` writes a starter file.")])
    if not isinstance(root.value, dict):
        kind = "a list" if isinstance(root.value, list) else "a plain value"
        raise ConfigError(
            [root.place.problem(f"must be a mapping with 'name' and 'stages', not {kind}.")]
        )
    problems: list[Problem] = []
    settings = _settings(root, problems)
    entries: list[StageEntry] = []
    names: dict[str, Node] = {}
    for node in _stage_nodes(root, problems):
        entry = _entry(node, names, problems)
        if entry is not None:
            entries.append(entry)
    if len(entries) == len(
        names
    ):  # an entry that could not be read would make the order look wrong
        problems += _order_problems(entries, settings)
    if problems or settings is None:
        raise InvalidChain(problems, entries)
    return ChainConfig(settings=settings, stages=tuple(entries), file=file, node=root)


def _settings(root: Node, problems: list[Problem]) -> RunSettings | None:
    assert isinstance(root.value, dict)
    top = Node({k: v for k, v in root.value.items() if k != "stages"}, root.place, root.key_places)
    try:
        return validate(RunSettings, top)
    except ValidationError as error:
        problems += problems_of(error, RunSettings, top, prefix="", also_allowed=("stages",))
        return None


def _stage_nodes(root: Node, problems: list[Problem]) -> list[Node]:
    assert isinstance(root.value, dict)
    node = root.value.get("stages")
    form = "a list of stages: `- augment: {...}`"
    if node is None:
        problems.append(root.place.problem(f"required key is missing. It holds {form}.", "stages"))
    elif not isinstance(node.value, list):
        problems.append(node.place.problem(f"must be {form}.", "stages"))
    elif not node.value:
        problems.append(node.place.problem("is empty. Add at least one stage.", "stages"))
    else:
        return node.value
    return []


def _entry(item: Node, names: dict[str, Node], problems: list[Problem]) -> StageEntry | None:
    """Validate one list item; what is wrong goes to `problems`."""
    if isinstance(item.value, str):
        item = Node({item.value: Node(None, item.place)}, item.place, {item.value: item.place})
    if not isinstance(item.value, dict) or len(item.value) != 1:
        problems.append(
            item.place.problem(
                "each stage is one name with its settings: `- train: {...}`.", "stages"
            )
        )
        names[f"#{len(names)}"] = item
        return None
    [(name, node)] = item.value.items()
    path = f"stages.{name}"
    place = item.key_places.get(name, item.place)
    if name in names:
        problems.append(
            place.problem(
                f"the name {name!r} is taken by the stage in line {names[name].place.line}. Give "
                f"this one another name and say what it is: `- {name}2: {{uses: {name}, ...}}`.",
                path,
            )
        )  # fmt: skip
        return None
    names[name] = item
    if node.value is None:
        node = Node({}, node.place)
    if not isinstance(node.value, dict):
        problems.append(
            node.place.problem(f"must be a mapping of settings, not {node.value!r}.", path)
        )
        return None
    uses = _text_setting(node, "uses", path, problems) or name
    inputs = _inputs(node, path, names, problems)
    own = {key: value for key, value in node.value.items() if key not in {"uses", "inputs"}}
    node = Node(own, node.place, node.key_places)
    try:
        stage = load_stage(uses)
    except ConfigError as error:
        problems.append(place.problem(str(error), "stages"))
        return None
    try:
        config = validate(stage.Config, node)
    except ValidationError as error:
        problems += problems_of(
            error, stage.Config, node, prefix=path, also_allowed=("uses", "inputs")
        )
        return None
    return StageEntry(name=name, uses=uses, stage=stage, config=config, inputs=inputs, node=node)


def _text_setting(node: Node, key: str, path: str, problems: list[Problem]) -> str:
    assert isinstance(node.value, dict)
    value = node.value.get(key)
    if value is None:
        return ""
    if not isinstance(value.value, str):
        problems.append(value.place.problem(f"{value.plain()!r} must be a text.", f"{path}.{key}"))
        return ""
    return value.value


def _inputs(
    node: Node, path: str, names: dict[str, Node], problems: list[Problem]
) -> tuple[str, ...]:
    assert isinstance(node.value, dict)
    value = node.value.get("inputs")
    if value is None:
        return ()
    given = value.plain()
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        problems.append(
            value.place.problem(f"{given!r} must be a list of stage names.", f"{path}.inputs")
        )
        return ()
    inputs = [item for item in given if isinstance(item, str)]
    problems += [
        value.place.problem(
            f"{item!r} is no earlier stage of this chain.{nearest(item, names)}", f"{path}.inputs"
        )
        for item in inputs
        if item not in names
    ]
    return tuple(inputs)


def _order_problems(entries: Sequence[StageEntry], settings: RunSettings | None) -> list[Problem]:
    """Find stages that require what no earlier stage produces."""
    if settings is not None and settings.artifacts_from is not None:
        return []
    problems: list[Problem] = []
    for position, entry in enumerate(entries):
        for kind in entry.stage.requires:
            if any(earlier.stage.produces is kind for earlier in entries[:position]):
                continue
            later = [e.name for e in entries[position + 1 :] if e.stage.produces is kind]
            mend = (
                f"Move '{later[0]}' before it."
                if later
                else "Add the stage that produces it, or name an earlier run in `artifacts_from`."
            )
            problems.append(
                entry.problem(
                    Problem(
                        message=f"needs a {kind.__name__}, which no earlier stage produces. {mend}"
                    )
                )
            )
    return problems
