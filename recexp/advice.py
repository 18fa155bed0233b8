"""Turns Hydra's errors about overrides and YAML files into one line: what is wrong, and what would be right."""

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recexp.error import QUOTED_KEY, ConfigError, choices, first_line, key_of_mapping, override, unquoted_keys
from recexp.groups import GROUPS, conf_folder, options
from recexp.safe_yaml import parse_yaml

ADDED = ("experiment", "sweep")  # optional groups: absent from a configuration unless added
# Where a user adds keys of their own.
OPEN = ("dataset.features.user.", "dataset.features.item.", "dataset.features.context.", "model.loss_weights.",
        "logger.tags.")  # fmt: skip
# Hydra's messages about a key that does not exist, or that + would add though it exists.
ABOUT_A_KEY = (r"Could not override '([^']+)'", r"Key '([^']+)' is not in struct",
               r"Could not append to config. An item is already at '([^']+)'")  # fmt: skip
CHOICE = re.compile(rf"(\+?({'|'.join(GROUPS)})|hydra/\w+)=[\w-]+")  # an override that chooses an option of a group
IN_A_FILE = (
    "a name with such characters stands in a YAML file: recexp inspect FILE --write NAME makes one of your data."
)
QUOTES = (
    "in the grammar of Hydra's overrides; quote values that hold spaces, commas or brackets, and in names of a mapping "
    "put a \\ before each"
)
EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm"}  # Hydra's plugins: recexp's extra that installs them


@dataclass(frozen=True)
class Refused:
    """An error of Hydra's and what caused it."""

    error: Exception
    overrides: Sequence[str]
    config_dir: str | None
    composed: Callable[[list[str]], Any]  # the configuration of some overrides, Hydra's own node too

    @property
    def text(self) -> str:
        return " ".join(line.strip() for line in str(self.error).splitlines() if line.strip())


def one_line(refused: Refused) -> ConfigError:
    for explain in (_unknown_option, _unknown_key, _circular_defaults, _bad_grammar):
        if line := explain(refused):
            return ConfigError(line)
    return ConfigError(first_line(refused.error))


def _unknown_option(refused: Refused) -> str | None:
    """A group has no such option."""
    match = re.search(r"Could not find '([\w/]+)/([^']+)'", refused.text)
    if not match:
        return None
    group, name = match.groups()
    if name in EXTRAS:
        return f"{group} = {name}: is not installed; pip install 'recexp[{EXTRAS[name]}]'"
    hydras = re.findall(r"^\t(\w+)$", str(refused.error), re.MULTILINE)
    names = hydras if group.startswith("hydra/") else options(group)
    if refused.config_dir:
        names = [*names, *(path.stem for path in Path(refused.config_dir, group).glob("*.yaml"))]
    return f"{group} = {name}: no such {group.split('/')[-1]}. {choices(name, names)}"


def _unknown_key(refused: Refused) -> str | None:
    """The configuration has no such key, or has one that is to be added."""
    match = next(filter(None, (re.search(pattern, refused.text) for pattern in ABOUT_A_KEY)), None)
    if not match:
        return None
    key, overrides = match[1], refused.overrides
    word = next((override for override in overrides if override.split("=")[0].lstrip("+~") == key), key)
    if key in ADDED or key.startswith(OPEN):
        return f"{word}: no such key yet; write +{word} to add it."
    if line := _key_of_some_models(word, key, refused):
        return line
    if "append" in match[0]:
        return f"{word}: is there already; leave out the +."
    chosen = [override for override in overrides if CHOICE.fullmatch(override)]
    if chosen == [*overrides]:  # composing them alone fails in the same way
        return (
            f"{first_line(refused.error).rstrip('.')}; a file of experiment/ or sweep/ begins with # @package _global_."
        )
    return f"{word}: unknown key. {nearest_key(key, refused.composed(chosen))}"


def _key_of_some_models(word: str, key: str, refused: Refused) -> str | None:
    """Some of the models of a sweep lack the option."""
    swept = next(
        (word.partition("=")[2].split(",") for word in refused.overrides if re.match(r"\+*model=.*,", word)), []
    )
    group, _, option = key.partition(".")
    if group != "model" or not swept:
        return None
    folders = [Path(refused.config_dir), conf_folder()] if refused.config_dir else [conf_folder()]
    with_option = [name for name in swept if option.split(".")[0] in _model_options(name, folders)]
    if not with_option or len(with_option) == len(swept):
        return None
    lacking = ", ".join(name for name in swept if name not in with_option)
    alone = f"-m model={','.join(with_option)} ..."
    return f"{word}: {lacking} lacks this option; sweep those that have it by themselves: {alone}"


def _model_options(name: str, folders: Iterable[Path]) -> Any:
    """The keys of a model's YAML file; none if no folder has it."""
    path = next(filter(Path.is_file, (folder / f"model/{name}.yaml" for folder in folders)), None)
    return parse_yaml(path.read_text("utf-8")) if path else {}


def _circular_defaults(refused: Refused) -> str | None:
    if not isinstance(refused.error, RecursionError):
        return None
    return "a YAML file is nested too deeply, or the defaults of some name one another in a circle."


def _bad_grammar(refused: Refused) -> str | None:
    """Hydra cannot parse an override."""
    if type(refused.error).__name__ != "OverrideParseException":
        return None
    word = getattr(refused.error, "override", None) or " ".join(refused.overrides)
    right = _right_spelling(word, first_line(refused.error))
    if right is None:
        return f"{word}: {first_line(refused.error)} ({QUOTES})"
    return f"{word}: is not in the grammar of Hydra's overrides; {right}"


def _right_spelling(word: str, first_line: str) -> str | None:
    """How to write an override that Hydra cannot parse; None if that is not clear."""
    key, _, value = word.partition("=")
    key_alone = key.lstrip("+")
    if start := next((start for start in OPEN if key_alone.startswith(start)), None):
        name = key_of_mapping(key_alone.removeprefix(start).strip("'\""))
        mapping = shlex.quote(f"+{start.rstrip('.')}={{{name}:{value}}}")
        return f"write {mapping}." if name else IN_A_FILE
    if QUOTED_KEY.search(word):
        written = unquoted_keys(word)
        return f"the keys of a mapping have no quotes: write {written}." if written else IN_A_FILE
    if f"{key_alone}." in OPEN and value.startswith("{") and "Lexer" in first_line:
        return IN_A_FILE
    if value and not re.search(r"""[\[{(,'"$]""", value):
        return f"write {override(key, value)}."
    return None


def nearest_key(key: str, raw: Any) -> str:
    """The most similar of all dotted keys of a configuration, and the keys of the same group."""
    from recexp.tree import flat

    keys = [*(name for name, _ in flat(raw) if not name.endswith("_target_")), *GROUPS]
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    parent = key.rpartition(".")[0]
    siblings = [other for other in keys if other.rpartition(".")[0] == parent] or [*raw, "experiment"]
    text = choices(key, siblings)
    return text if text.startswith("Did") or not near else f"Did you mean '{near[0]}'? {text}"
