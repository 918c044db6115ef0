"""What a source is: one interface for a folder (folder.py), the prefix of a bucket (bucket.py), or a
manifest (manifest.py)."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from base.buckets import BucketAccess
from base.errors import SourceError
from base.settings import without_secrets
from models.suffixes import SUFFIXES


class EmptySource(SourceError):
    """A source without a single image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An image that a listing came to."""

    uri: str
    fingerprint: str  #: the same as long as nobody wrote to the image
    size_bytes: int
    #: of a manifest: the key of each product that it shows, or "", and the other columns as JSON
    rows: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PassedOver:
    """Something that is not listed: a link, a device, a FIFO; or a folder that may not be read."""

    uri: str  #: a folder's ends with a slash
    is_hidden: bool  #: what is there, or below it, could not be seen, so that nothing of it counts as gone


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A part of a source whose listing has the order of its URIs."""

    listing: Iterator[Found | PassedOver]
    lists: Callable[[str], bool]  #: whether an image of that URI would be of this part
    after: str | None  #: where it begins; None for the start
    disordered: bool = False  #: of the URIs that have another order than their keys, and of no others


class Source(Protocol):
    """Where images to classify come from."""

    @property
    def uri(self) -> str:
        """What it is named by in SQL."""
        ...

    @property
    def include(self) -> tuple[str, ...]:
        """Globs of what is taken."""
        ...

    @property
    def exclude(self) -> tuple[str, ...]:
        """Globs of what is left out."""
        ...

    @property
    def uri_range(self) -> tuple[str, str]:
        """The first URI that can be of this source, and the first that comes after all of them."""
        ...

    def stretches(self, after: str | None = None) -> Iterator[Stretch]:
        """List the images, in parts that follow each other; each is to be read to its end before the next.

        Args:
            after: the last URI that was read of an earlier listing; what came before it then is left out.

        Raises:
            SourceError: it cannot be listed.
            TransientError: the store falters.
        """
        ...


def open_source(
    address: str,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    access: BucketAccess,
    column: str | None = None,
    key: str | None = None,
) -> Source:
    """The source of an address: a path, a `file://` URI, or `s3://`, `gs://` or `az://` with a bucket and a prefix.

    Where it names a manifest, that is the source.

    Args:
        include, exclude: as `Globs` takes them.
        column, key: of a manifest, as `Manifest` takes them.

    Raises:
        SourceError: there is no such source.
    """
    from producer.bucket import Bucket, is_bucket_url
    from producer.folder import Folder
    from producer.manifest import Manifest, is_manifest

    if is_manifest(address):
        if include or exclude:
            raise SourceError(
                f"{without_secrets(address)!r} is a manifest, which names its images itself. "
                "Leave out --include and --exclude."
            )
        return Manifest(address, access=access, column=column, key=key)
    if column is not None or key is not None:
        option = "--column" if column is not None else "--key"
        raise SourceError(
            f"{without_secrets(address)!r} is no manifest, and {option} is for those. Leave it out, or name a manifest."
        )
    if is_bucket_url(address):
        return Bucket(address, include, exclude, access=access)
    return Folder(address, include, exclude)


def check_not_empty(source: Source) -> None:
    """Refuse a source without a single image, before anything is written: most often it is the wrong folder, or a
    disk that is not mounted, and its images are not gone.

    Raises:
        EmptySource: it lists nothing.
    """
    from producer.manifest import Manifest

    if isinstance(source, Manifest):
        source.check()
        return
    listed = (found for stretch in source.stretches() for found in stretch.listing)
    if not any(isinstance(found, Found) for found in listed):
        wanted = " or ".join(source.include) if source.include else ", ".join(suffix[1:] for suffix in SUFFIXES)
        without = f", without {' or '.join(source.exclude)}" if source.exclude else ""
        mend = "another --exclude" if source.exclude else "--include GLOB"
        raise EmptySource(f"no images in {source.uri} (looked for {wanted}{without}). Name another source, or {mend}.")


def source_uri(address: str) -> str:
    """The URI that a source of that address has, whether or not it still exists.

    Raises:
        SourceError: it is a URL that names no bucket.
    """
    from producer.bucket import is_bucket_url, parse_bucket_url
    from producer.folder import path_to_uri

    if is_bucket_url(address):
        return parse_bucket_url(address).uri
    return address if address.startswith("file://") else path_to_uri(os.fsencode(os.path.realpath(address)))
