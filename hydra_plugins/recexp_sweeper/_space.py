"""The space of a search: from Hydra's grammar to Optuna's distributions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from recexp.config import Config
from recexp.error import ConfigError
from recexp.groups import MAPPING
from recexp.tree import flat, to_dict

Space = dict[str, BaseDistribution]  # key, with its + where it has one: distribution
GRAMMAR = "interval(a,b), tag(log,interval(a,b)), int(interval(a,b)), range(a,b,step), choice(a,b,...) or a,b,..."


def split(overrides: Sequence[Override]) -> tuple[list[str], Space]:
    """The overrides that hold in every trial, as typed, and the space of the others; the last one of a key counts.

    So does a mapping that comes after an entry of it. Several seeds are in neither: each trial runs with all of them.
    Raises ConfigError.
    """
    last: dict[str, Override] = {}
    for override in overrides:
        key = override.key_or_group
        if MAPPING.fullmatch(key) and not override.is_add():
            last = {name: earlier for name, earlier in last.items() if not name.lstrip("~").startswith(f"{key}.")}
        name = f"~{key}" if override.is_delete() else key
        last.pop(name, None)
        last[name] = override
    if seeds(overrides) != [[]]:
        del last["seed"]
    fixed = [str(override.input_line) for override in last.values() if not override.is_sweep_override()]
    swept = [override for override in last.values() if override.is_sweep_override()]
    return fixed, {override.get_key_element(): distribution(override.get_key_element(), override) for override in swept}


def job_words(fixed: Sequence[str], setting: Mapping[str, Any]) -> list[str]:
    """The overrides of a trial; those of single entries come after a mapping that is searched."""
    keys = [key.lstrip("+") for key in setting]
    entries = tuple(f"{key}." for key in keys if MAPPING.fullmatch(key))
    late = [word for word in fixed if word.lstrip("+~").startswith(entries)]
    return [*(word for word in fixed if word not in late), *words(setting), *late]


def seeds(overrides: Sequence[Override]) -> list[list[str]]:
    """What each run of a trial adds to its overrides: one of the seeds given, or nothing. Raises ConfigError."""
    given = [override for override in overrides if override.get_key_element() == "seed"]
    if not (given and given[-1].is_sweep_override()):
        return [[]]
    if given[-1].is_interval_sweep():
        raise ConfigError(
            f"{_as_override('seed', given[-1])}: a trial runs with each seed of a list; write seed=0,1,2."
        )
    return [[f"seed={seed}"] for seed in dict.fromkeys(given[-1].sweep_string_iterator())]


def distribution(key: str, override: Override) -> BaseDistribution:
    """Raises ConfigError for invalid bounds or tags."""
    sweep: Any = override.value()
    tags: set[str] = getattr(sweep, "tags", set())
    if tags - {"log"} or (tags and not override.is_interval_sweep()):
        raise ConfigError(f"{_as_override(key, override)}: log is the one tag, for intervals; write {GRAMMAR}.")
    if override.is_interval_sweep():
        return _interval(_as_override(key, override), sweep)
    values: list[Any] = list(
        override.sweep_iterator() if override.is_range_sweep() else override.sweep_string_iterator()
    )
    if not values:
        raise ConfigError(f"{_as_override(key, override)}: names nothing.")
    if not override.is_range_sweep():
        return CategoricalDistribution(list(dict.fromkeys(values)))
    step = abs(sweep.step)
    if all(isinstance(value, int) for value in values):
        return IntDistribution(min(values), max(values), step=step)
    return FloatDistribution(min(values), max(values), step=step)


def checked(fixed: list[str], space: Space, job: Callable[[list[str]], Config]) -> Config:
    """The configuration of the first corner, after all corners have been checked.

    Raises ConfigError for an invalid value, and for a real interval over a key that takes whole numbers.
    """
    first, *others = corners(space)
    config = job(job_words(fixed, first))
    values = dict(flat(to_dict(config)))
    for key, item in space.items():
        if isinstance(item, FloatDistribution) and type(values.get(key.lstrip("+"))) is int:
            raise ConfigError(f"{key}: is a whole number; write int(interval({item.low:g},{item.high:g})).")
    for corner in others:
        job(job_words(fixed, corner))
    return config


def corners(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Settings with each end of every interval and each choice, one key at a time while the others keep their first."""
    ends = {key: _ends(item) for key, item in space.items()}
    first = {key: values[0] for key, values in ends.items()}
    return [first, *({**first, key: value} for key, values in ends.items() for value in values[1:])]


def grid(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """All combinations, the last key changing fastest. Raises ConfigError for an interval."""
    combinations: list[dict[str, Any]] = [{}]
    for key, item in space.items():
        combinations = [{**setting, key: value} for setting in combinations for value in _points(key, item)]
    return combinations


def words(setting: Mapping[str, Any]) -> list[str]:
    """The setting as overrides. Six digits of a float are enough, and are what a run's config.yaml holds."""
    return [f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}" for key, value in setting.items()]


def _interval(text: str, sweep: IntervalSweep) -> BaseDistribution:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    assert low is not None and high is not None
    if low >= high:
        raise ConfigError(f"{text}: the second bound must be above the first.")
    if log and low <= 0:
        raise ConfigError(f"{text}: on a log scale the bounds must be above 0.")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _ends(values: Any) -> list[Any]:
    return list(values.choices) if isinstance(values, CategoricalDistribution) else [values.low, values.high]


def _points(key: str, values: Any) -> list[Any]:
    if isinstance(values, CategoricalDistribution):
        return list(values.choices)
    if not values.step or values.log:
        raise ConfigError(f"{key}: sampler grid takes lists and ranges, no intervals.")
    count = round((values.high - values.low) / values.step) + 1
    return [values.low + values.step * n for n in range(count)]


def _as_override(key: str, override: Override) -> str:
    return f"{key}={override.get_value_string()}"
