"""What Hydra says of overrides and YAML files, as one line: what is wrong, and what would be right."""

import difflib
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recexp.error import QUOTED_KEY, ConfigError, choices, key_of_mapping, override, unquoted_keys
from recexp.groups import GROUPS, conf_folder, options
from recexp.storage import parse_yaml

ADDED = ("experiment", "sweep")  # optional groups: absent from a configuration unless added
# Where a user adds keys of their own.
OPEN = ("dataset.features.user.", "dataset.features.item.", "dataset.features.context.", "model.loss_weights.",
        "logger.tags.")  # fmt: skip
# What Hydra says of a key that is not there, or that + would add and that is.
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
    """What Hydra refused."""

    error: Exception
    overrides: Sequence[str]
    config_dir: str | None
    composed: Callable[[list[str]], Any]  # the configuration of some overrides, Hydra's own node too

    @property
    def text(self) -> str:
        return " ".join(line.strip() for line in str(self.error).splitlines() if line.strip())

    @property
    def first_line(self) -> str:
        return next((line.strip() for line in str(self.error).splitlines() if line.strip()), type(self.error).__name__)


def one_line(refused: Refused) -> ConfigError:
    for told in (_of_an_option, _of_a_key, _of_a_circle, _of_the_grammar):
        if line := told(refused):
            return ConfigError(line)
    return ConfigError(refused.first_line)


def _of_an_option(refused: Refused) -> str | None:
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


def _of_a_key(refused: Refused) -> str | None:
    """The configuration has no such key, or has one that is to be added."""
    match = next(filter(None, (re.search(pattern, refused.text) for pattern in ABOUT_A_KEY)), None)
    if not match:
        return None
    key, overrides = match[1], refused.overrides
    typed = next((word for word in overrides if word.split("=")[0].lstrip("+~") == key), key)
    if key in ADDED or key.startswith(OPEN):
        return f"{typed}: no such key yet; write +{typed} to add it."
    if line := _of_some_models(typed, key, refused):
        return line
    if "append" in match[0]:
        return f"{typed}: is there already; leave out the +."
    chosen = [word for word in overrides if CHOICE.fullmatch(word)]
    if chosen == [*overrides]:  # composing them fails just so
        return f"{refused.first_line.rstrip('.')}; a file of experiment/ or sweep/ begins with # @package _global_."
    return f"{typed}: unknown key. {nearest_key(key, refused.composed(chosen))}"


def _of_some_models(typed: str, key: str, refused: Refused) -> str | None:
    """Some of the models of a sweep lack the option."""
    swept = next(
        (word.partition("=")[2].split(",") for word in refused.overrides if re.match(r"\+*model=.*,", word)), []
    )
    group, _, option = key.partition(".")
    if group != "model" or not swept:
        return None
    folders = [Path(refused.config_dir), conf_folder()] if refused.config_dir else [conf_folder()]
    having = [name for name in swept if option.split(".")[0] in _model_options(name, folders)]
    if not having or len(having) == len(swept):
        return None
    lacking = ", ".join(name for name in swept if name not in having)
    alone = f"-m model={','.join(having)} ..."
    return f"{typed}: {lacking} lacks this option; sweep those that have it by themselves: {alone}"


def _model_options(name: str, folders: Iterable[Path]) -> Any:
    """The keys of a model's YAML file; none if no folder has it."""
    path = next(filter(Path.is_file, (folder / f"model/{name}.yaml" for folder in folders)), None)
    return parse_yaml(path.read_text("utf-8")) if path else {}


def _of_a_circle(refused: Refused) -> str | None:
    if not isinstance(refused.error, RecursionError):
        return None
    return "a YAML file is nested too deeply, or the defaults of some name one another in a circle."


def _of_the_grammar(refused: Refused) -> str | None:
    """Hydra cannot parse an override."""
    if type(refused.error).__name__ != "OverrideParseException":
        return None
    typed = getattr(refused.error, "override", None) or " ".join(refused.overrides)
    right = _rightly_written(typed, refused.first_line)
    if right is None:
        return f"{typed}: {refused.first_line} ({QUOTES})"
    return f"{typed}: is not in the grammar of Hydra's overrides; {right}"


def _rightly_written(typed: str, first_line: str) -> str | None:
    """How to write an override that Hydra cannot parse, where one can tell."""
    key, _, value = typed.partition("=")
    key_alone = key.lstrip("+")
    if start := next((start for start in OPEN if key_alone.startswith(start)), None):
        name = key_of_mapping(key_alone.removeprefix(start).strip("'\""))
        mapping = shlex.quote(f"+{start.rstrip('.')}={{{name}:{value}}}")
        return f"write {mapping}." if name else IN_A_FILE
    if QUOTED_KEY.search(typed):
        written = unquoted_keys(typed)
        return f"the keys of a mapping have no quotes: write {written}." if written else IN_A_FILE
    if f"{key_alone}." in OPEN and value.startswith("{") and "Lexer" in first_line:
        return IN_A_FILE
    if value and not re.search(r"""[\[{(,'"$]""", value):
        return f"write {override(key, value)}."
    return None


def nearest_key(key: str, raw: Any) -> str:
    """The nearest of all dotted keys of a configuration, and the keys beside it."""
    from recexp.tree import flat

    keys = [*(name for name, _ in flat(raw) if not name.endswith("_target_")), *GROUPS]
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    parent = key.rpartition(".")[0]
    beside = [other for other in keys if other.rpartition(".")[0] == parent] or [*raw, "experiment"]
    text = choices(key, beside)
    return text if text.startswith("Did") or not near else f"Did you mean '{near[0]}'? {text}"
