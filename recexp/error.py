"""What a user can get wrong. An error is one line: what is wrong, where, and what would be right."""

import difflib
import re
import shlex
from collections.abc import Iterable

# Control characters, line separators, changes of the direction of writing, and halves of characters.
OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


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


def disk_line(error: OSError) -> str:
    """What the system could not do, in one line: the file and the reason."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def signal_behind(error: BaseException | None) -> BaseException | None:
    """The signal that an error comes from, as where a library turns KeyboardInterrupt into an error of its own."""
    while error and not isinstance(error, KeyboardInterrupt | Terminated):
        error = error.__cause__ or error.__context__
    return error


def override(key: str, value: str) -> str:
    """An override as one can paste it into a shell, whatever the value is."""
    return shlex.quote(f'{key}="{value}"')


def printable(text: str) -> str:
    """The text with escapes, such as \\x1b, for what a terminal obeys or cannot show; it is one line then."""
    return OBEYED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


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
