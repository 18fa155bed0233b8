"""What a user can get wrong. An error is one line: what is wrong, where, and what would be right."""

import difflib
import re
import shlex
from collections.abc import Iterable

# Control characters, line separators, changes of writing direction, and unpaired surrogates.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# Characters that a mapping's key in Hydra's grammar cannot hold, and a key in quotes, which the grammar forbids.
UNWRITABLE = re.compile(r"[^\w \\()\[\]{}:=,$%*+./?@|-]", re.ASCII)
QUOTED_KEY = re.compile(r"""([{,]\s*)(["'])(.*?)\2(\s*:)""")


class UserError(Exception):
    """A mistake in what the user typed or supplied; the command line prints it and exits with 2."""


class ConfigError(UserError):
    """A wrong key, value or name in the configuration."""


class DataError(UserError):
    """A file that is missing or does not hold what the configuration says."""


class RunError(UserError):
    """A run directory that is missing, taken or not what the command needs."""


class DamagedFile(RunError):
    """A file whose content is not what was written."""


class Failure(Exception):
    """What ended a run without a mistake of the user's, such as a full disk: one line, and exit code 1."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type's name if it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def disk_line(error: OSError) -> str:
    """A system error in one line: the file and the reason."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def signal_behind(error: BaseException | None) -> BaseException | None:
    """The signal behind an error; a library may have turned KeyboardInterrupt into an error of its own."""
    while error and not isinstance(error, KeyboardInterrupt | Terminated):
        error = error.__cause__ or error.__context__
    return error


def override(key: str, value: str) -> str:
    """An override as one can paste it into a shell, whatever the value is."""
    return shlex.quote(f'{key}="{value}"')


def key_of_mapping(name: str) -> str | None:
    """A name as a mapping's key in Hydra's grammar; None if the grammar cannot write it."""
    return None if UNWRITABLE.search(name) else re.sub(r"[\\()\[\]{}:=,]", r"\\\g<0>", name)


def unquoted_keys(text: str) -> str | None:
    """An override with the quotes of its mapping's keys removed, for a shell; None if that is not possible."""
    names = [match[3] for match in QUOTED_KEY.finditer(text)]
    if not names or any(key_of_mapping(name) is None for name in names):
        return None
    return shlex.quote(QUOTED_KEY.sub(lambda match: f"{match[1]}{key_of_mapping(match[3])}{match[4]}", text))


def printable(text: str) -> str:
    """The text on one line, with control characters escaped, as in \\x1b."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def choices(wrong: str, allowed: Iterable[str]) -> str:
    """The nearest right spelling of `wrong`, if any, and what is allowed, cut after 30 names."""
    allowed = sorted(allowed)
    lower = {name.lower(): name for name in allowed}
    near = difflib.get_close_matches(wrong.lower(), lower, n=1, cutoff=0.6)
    hint = f"Did you mean '{lower[near[0]]}'? " if near else ""
    if len(allowed) > 30:
        allowed = [*allowed[:30], "..."]
    return f"{hint}Choices: {', '.join(allowed) if allowed else 'none'}."


class Terminated(BaseException):
    """SIGTERM. Like KeyboardInterrupt, it is not an Exception, so no handler on the way swallows it."""
