"""Options that choose how objectives become one reward, for every command that makes rewards.

`--aggregation` names a class, a YAML file or a JSON value; `--aggregation.weights.safety=2` changes
one parameter of it, or of what the model's spec holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prm.errors import ConfigError

if TYPE_CHECKING:
    from prm.aggregation.objectives import ObjectiveAggregation
    from prm.aggregation.steps import StepAggregation
    from prm.spec import RewardSpec

OVERRIDES = {
    "aggregation": "aggregation_overrides",
    "shaping": "shaping",
    "thresholds": "thresholds",
}
"""Options with dotted parts, and the option that takes them all as one JSON object."""


def fold_dotted(args: Sequence[str], parameters: Sequence[str]) -> list[str]:
    """Write dotted options as one JSON object each, as jsonargparse wants them.

    Names behind the dots are names of objectives and stay as they are typed.

    Args:
        args: Words of the command line.
        parameters: Names of the command's parameters; other options are left alone.

    Raises:
        ConfigError: A dotted option has no value.

    Example:
        >>> fold_dotted(["--aggregation.weights.safety=2", "--output", "a.jsonl"],
        ...             ["aggregation_overrides"])
        ['--output', 'a.jsonl', '--aggregation_overrides', '{"weights.safety": 2}']
    """
    words: list[str] = []
    folded: dict[str, dict[str, Any]] = {}
    rest = list(args)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        name, _, path = option.removeprefix("--").partition(".")
        target = OVERRIDES.get(name, "")
        if not option.startswith("--") or not path or target not in parameters:
            words.append(word)
            continue
        if not equals:
            value = _next_value(option, rest)
        folded.setdefault(target, {})[path] = _parsed(value)
    for target, values in folded.items():
        words += [f"--{target}", json.dumps(values)]
    return words


def _next_value(option: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--"):
        raise ConfigError(f"{option} has no value", fix=f"Write {option}=2")
    return rest.pop(0)


def _parsed(text: str) -> Any:
    for read in (json.loads, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def resolve_step_aggregation(
    spec: RewardSpec, name: str | None, overrides: Mapping[str, Any] | None
) -> StepAggregation:
    """Return the step aggregation that the options ask for.

    Args:
        spec: The model's spec; its aggregation holds if `name` is `None`.
        name: A short name: `min`, `softmin`.
        overrides: Parameters to change: `{"beta": 20}`.

    Raises:
        ConfigError: There is no such aggregation or parameter.
    """
    from prm.aggregation.steps import STEP_AGGREGATIONS, step_aggregation

    if name is not None and name not in STEP_AGGREGATIONS:
        raise ConfigError(
            "the scores are of chains, whose steps are aggregated",
            expected=" | ".join(STEP_AGGREGATIONS),
            got=name,
        )
    chosen = spec.step_aggregation if name is None else step_aggregation(name)
    for option in overrides or {}:
        if option not in chosen.parameters():
            raise ConfigError(
                f"{chosen.name} of the steps of chains has no parameter {option!r}",
                expected=", ".join(chosen.parameters()) or "none",
                fix="Weights and the like are for scores of responses",
            )
    return step_aggregation(chosen.name, **{**chosen.parameters(), **(overrides or {})})


def resolve_aggregation(
    spec: RewardSpec,
    aggregation: str | Mapping[str, Any] | None,
    overrides: Mapping[str, Any] | None,
) -> ObjectiveAggregation:
    """Return the aggregation that the options ask for, checked against the spec's objectives.

    Args:
        spec: The model's spec; its aggregation holds if `aggregation` is `None`.
        aggregation: A name (`WeightedSum` or `weighted_sum`), a YAML or JSON file as in
            `configs/aggregation`, a JSON object, or what such a file holds.
        overrides: Parameters to change: `{"weights.safety": 2}` or `{"weights": {"safety": 2}}`.

    Raises:
        ConfigError: There is no such aggregation, parameter or objective.
    """
    names = spec.response_names
    if not names:
        raise ConfigError(
            "a process model has no objectives to aggregate",
            fix="`prm score --aggregation` aggregates its steps",
        )
    chosen = _chosen(spec, aggregation)
    if overrides:
        chosen = chosen.with_overrides(overrides, names)
    chosen.check(names)
    return chosen


def _chosen(spec: RewardSpec, aggregation: str | Mapping[str, Any] | None) -> ObjectiveAggregation:
    from prm.aggregation.objectives import from_config

    if aggregation is None:
        assert spec.objective_aggregation is not None
        return spec.objective_aggregation
    if not isinstance(aggregation, str):
        return from_config(aggregation)
    if Path(aggregation).suffix in (".yaml", ".yml", ".json"):
        return load_aggregation(Path(aggregation))
    if aggregation.lstrip().startswith("{"):
        return from_config(_mapping(aggregation))
    return from_config(aggregation)


def load_aggregation(path: Path) -> ObjectiveAggregation:
    """Read an aggregation from a YAML or JSON file.

    Raises:
        ConfigError: The file cannot be read, or holds no aggregation.
    """
    from prm.aggregation.objectives import from_config

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the aggregation file cannot be read", got=str(error)) from None
    try:
        return from_config(_mapping(text))
    except ConfigError as error:
        raise error.at(str(path)) from None


def load_aggregations(
    files: Sequence[Path], objectives: Sequence[str]
) -> dict[str, ObjectiveAggregation]:
    """Return the aggregations of files by the files' names, checked against the objectives.

    Raises:
        ConfigError: As `load_aggregation`, a file does not fit, or two have the same name.
    """
    found: dict[str, ObjectiveAggregation] = {}
    for file in files:
        aggregation = load_aggregation(file)
        try:
            aggregation.check(objectives)
        except ConfigError as error:
            raise error.at(str(file)) from None
        if file.stem in found:
            raise ConfigError("two files to compare have the same name", got=file.stem)
        found[file.stem] = aggregation
    return found


def _mapping(text: str) -> Mapping[str, Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("this is not YAML", got=str(error)) from None
    if not isinstance(value, Mapping):
        raise ConfigError("there is no aggregation", expected="class_path", got=value)
    # A file may hold the aggregation below the option's name, as configurations of `prm fit` do.
    inner = value.get("aggregation")
    return inner if len(value) == 1 and isinstance(inner, Mapping) else value
