"""A source that is a local folder, or a single file."""

import os
import stat
from collections.abc import Iterator, Sequence
from urllib.parse import quote, unquote_to_bytes

from base.errors import SourceError
from base.settings import without_secrets
from producer.globs import Globs
from producer.sources import Found, PassedOver, Stretch

# What RFC 3986 leaves unencoded in a path, so that our addresses are those that other tools write.
_SAFE = "/!$&'()*+,;=:@"


class Folder:
    """The images below a folder, or one file.

    Args:
        path: as the user wrote it, or its URI; links on the way to it are followed, links below it are not.
        include: globs instead of the usual suffixes. One without a slash matches names at any depth, one with a slash
            the path below the folder, where `**` stands for any number of folders.
        exclude: globs of what is not listed; one that matches a folder leaves out all that is below it.

    Raises:
        SourceError: it does not exist, cannot be read, or is neither a folder nor a file.
    """

    def __init__(self, path: str, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self.include, self.exclude = tuple(include), tuple(exclude)
        self._globs = Globs(include, exclude)
        if path.startswith("file://"):
            path = os.fsdecode(unquote_to_bytes(path.removeprefix("file://")))
        if not path or "://" in path:
            raise SourceError(f"{without_secrets(path)!r} is no local folder. Name a folder of images, or one image.")
        self._root = os.fsencode(os.path.realpath(path))
        try:
            mode = os.stat(self._root).st_mode
        except OSError as error:
            raise SourceError(
                f"no folder {path!r}: {error.strerror}. Name a folder of images, or one image."
            ) from error
        self.is_file = stat.S_ISREG(mode)
        if not self.is_file and not stat.S_ISDIR(mode):
            raise SourceError(f"{path!r} is neither a folder nor a file. Name a folder of images, or one image.")
        self.uri = path_to_uri(self._root)
        self._prefix = self.uri if self.uri.endswith("/") else self.uri + "/"

    @property
    def uri_range(self) -> tuple[str, str]:
        """The first URI that can be of this source, and the first that comes after all of them."""
        if self.is_file:
            return self.uri, self.uri + " "  # A URI holds no space, so nothing lies between the two.
        return self._prefix, self._prefix[:-1] + chr(ord("/") + 1)

    def lists(self, uri: str) -> bool:
        """Whether this source lists an image of that URI, when it is there."""
        if self.is_file:
            return uri == self.uri
        if not uri.startswith(self._prefix):
            return False
        return self._globs.take(self._relative(uri))

    def stretches(self, after: str | None = None) -> Iterator[Stretch]:
        """See `Source`; a folder has one."""
        yield Stretch(listing=self.walk(after), lists=self.lists, after=after)

    def walk(self, after: str | None = None) -> Iterator[Found | PassedOver]:
        """List the images in the order of their URIs, beginning after `after`.

        Holds one folder's names at a time and those of the folders above it.

        Raises:
            SourceError: the folder itself cannot be read.
        """
        if self.is_file:
            found = look(self._root, self.uri)
            if found is not None and (after is None or self.uri > after):
                yield found
            return
        try:
            os.scandir(self._root).close()
        except OSError as error:
            path = os.fsdecode(self._root)
            raise SourceError(
                f"the folder {path!r} cannot be read: {error.strerror}. Check its permissions."
            ) from error
        yield from self._walk(self._root, self._prefix, after)

    def _relative(self, uri: str) -> str:
        return os.fsdecode(unquote_to_bytes(uri[len(self._prefix) :]))

    def _walk(self, folder: bytes, prefix: str, after: str | None) -> Iterator[Found | PassedOver]:
        try:
            names, others = _read_names(folder)
        except FileNotFoundError:
            return
        except OSError:
            yield PassedOver(uri=prefix, is_hidden=True)
            return
        for name in names:
            uri, path = prefix + name, os.path.join(folder, unquote_to_bytes(name.rstrip("/")))
            if name.endswith("/"):
                is_ahead = after is None or uri > after or after.startswith(uri)
                if is_ahead and not self._globs.exclude(self._relative(uri).rstrip("/")):
                    yield from self._walk(path, uri, after)
            elif after is not None and uri <= after:
                continue
            elif name in others:
                yield PassedOver(uri=uri, is_hidden=False)
            elif self.lists(uri):
                found = look(path, uri)
                if found is not None:
                    yield found


def path_to_uri(path: bytes) -> str:
    """An absolute path as `file://` URI; every byte that is not plain ASCII is percent-encoded, so any name has one."""
    return "file://" + quote(path, safe=_SAFE)


def _read_names(folder: bytes) -> tuple[list[str], set[str]]:
    """A folder's names as in URIs and in their order, and those of them that are neither folders nor files.

    A folder's ends with a slash, as that is where the URIs below it sort. Nothing else is kept: where a folder has a
    million images, every byte of a name is a megabyte.
    """
    names, others = [], set()
    with os.scandir(folder) as entries:
        for entry in entries:
            name = quote(entry.name, safe=_SAFE)
            if entry.is_dir(follow_symlinks=False):
                name += "/"
            elif not entry.is_file(follow_symlinks=False):
                others.add(name)
            names.append(name)
    names.sort()
    return names, others


def look(path: bytes, uri: str) -> Found | PassedOver | None:
    """A file as a listing shows it; None where there is none, or something else."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None  # It went away while we walked: not there, so not listed.
    except OSError:
        return PassedOver(uri=uri, is_hidden=True)
    if not stat.S_ISREG(status.st_mode):
        return None
    return Found(uri=uri, fingerprint=f"{status.st_size}-{status.st_mtime_ns}", size_bytes=status.st_size)
