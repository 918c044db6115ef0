"""Which images of a source are taken: the usual suffixes or globs, as for every kind of source."""

import re
from collections.abc import Sequence

from base.errors import SourceError
from models.suffixes import SUFFIXES


class Globs:
    """What `--include` and `--exclude` say.

    Args:
        include: globs instead of the usual suffixes. One without a slash matches names at any depth, one with a slash
            the path below the source, where `**` stands for any number of folders.
        exclude: globs of what is not listed; one that matches a folder leaves out all that is below it.

    Raises:
        SourceError: a glob matches nothing.
    """

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._include = [_compile_glob(glob, "--include") for glob in include]
        self._exclude = [_compile_glob(glob.rstrip("/"), "--exclude") for glob in exclude]

    def take(self, relative: str) -> bool:
        """Whether an image of that path below the source is listed."""
        if self._exclude:
            parts = relative.split("/")
            if any(self.exclude("/".join(parts[:depth])) for depth in range(1, len(parts) + 1)):
                return False
        if self._include:
            return any(pattern.fullmatch(relative) for pattern in self._include)
        return relative.lower().endswith(SUFFIXES)

    def exclude(self, relative: str) -> bool:
        """Whether that very image or folder is left out."""
        return any(pattern.fullmatch(relative) for pattern in self._exclude)


def _compile_glob(glob: str, option: str) -> re.Pattern[str]:
    """`*` and `?` stay within a folder's name, `**` crosses folders, `[…]` is a set; as git and ripgrep do it."""
    if not glob.strip("/"):
        raise SourceError(f"{option} {glob!r} matches nothing. Write a glob such as '*.jpg' or 'shoes/**/*.png'.")
    anchored = "/" in glob.rstrip("/")
    pattern, rest = "" if anchored else "(?:.*/)?", glob.lstrip("/")
    while rest:
        if rest.startswith("**/"):
            pattern, rest = pattern + "(?:.*/)?", rest[3:]
        elif rest.startswith("**"):
            pattern, rest = pattern + ".*", rest[2:]
        elif rest[0] == "*":
            pattern, rest = pattern + "[^/]*", rest[1:]
        elif rest[0] == "?":
            pattern, rest = pattern + "[^/]", rest[1:]
        elif rest[0] == "[" and (end := rest.find("]", 2)) > 0:
            inside = rest[1:end].replace("\\", "\\\\").replace("[", "\\[")
            pattern, rest = pattern + "[" + ("^/" + inside[1:] if inside[0] in "!^" else inside) + "]", rest[end + 1 :]
        else:
            pattern, rest = pattern + re.escape(rest[0]), rest[1:]
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise SourceError(f"{option} {glob!r} is not a glob: {error}. Write one such as '*.jpg'.") from error
