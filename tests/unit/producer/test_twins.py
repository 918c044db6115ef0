"""New images whose bytes are known under another name."""

import hashlib
from contextlib import closing
from pathlib import Path

from producer.changes import Change, Kind
from producer.folder import path_to_uri
from producer.twins import NewImages, Twins
from results.listing import KnownImage

MD5 = ["5-" + letter * 32 for letter in "abcdef"]


def new(name: str, fingerprint: str, scheme: str = "s3") -> Change:
    return Change(kind=Kind.NEW, uri=f"{scheme}://bucket/{name}", fingerprint=fingerprint)


def gone(name: str, fingerprint: str, *, answered: bool = True) -> Change:
    image = KnownImage(
        image_id=hash(name), uri=f"s3://bucket/{name}", fingerprint=fingerprint, answered=answered, gone=False
    )
    return Change(kind=Kind.GONE, uri=image.uri, known=image)


def twins(changes: list[Change], answered: dict[str, set[bytes]]) -> Twins:
    def find_answered(fingerprints: object) -> dict[str, set[bytes]]:
        return {fingerprint: hashes for fingerprint, hashes in answered.items() if fingerprint in list(fingerprints)}  # type: ignore[call-overload]

    with closing(NewImages()) as images:
        for change in changes:
            images.add(change)
        return images.find_twins(find_answered)


def test_as_many_are_renamed_as_are_gone() -> None:
    changes = [new("b", MD5[0]), gone("a", MD5[0]), new("c", MD5[0]), new("d", MD5[1]), new("e", MD5[2])]

    assert twins(changes, {MD5[0]: {b"1"}, MD5[1]: {b"2"}}) == Twins(renamed=1, copied=2)


def test_second_of_two_new_objects_is_a_copy() -> None:
    assert twins([new("a", MD5[0]), new("b", MD5[0]), new("c", MD5[1])], {}) == Twins(copied=1)


def test_image_that_is_gone_without_an_answer_is_no_twin() -> None:
    changes = [new("b", MD5[0]), gone("a", MD5[0], answered=False)]

    assert twins(changes, {MD5[0]: {b"1"}}) == Twins(copied=1)


def test_fingerprints_that_do_not_tell_the_bytes_find_no_twins() -> None:
    parts = f"{MD5[0]}-2"  # Uploaded in parts.
    changes = [new("a", parts), new("b", parts), new("c", MD5[1], "gs"), new("d", MD5[1], "gs"), new("e", "5@7", "az")]

    assert twins(changes, {parts: {b"1"}, MD5[1]: {b"2"}}) == Twins()


def test_file_is_a_twin_where_its_bytes_are(tmp_path: Path) -> None:
    contents = {"renamed": b"one", "copied": b"one", "other": b"two"}
    changes = [gone("a", "3-7")]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        uri = path_to_uri(bytes(tmp_path / name))
        changes.append(Change(kind=Kind.NEW, uri=uri, fingerprint="3-7"))
    changes.append(Change(kind=Kind.NEW, uri=path_to_uri(bytes(tmp_path / "went away")), fingerprint="3-7"))

    assert twins(changes, {"3-7": {hashlib.sha256(b"one").digest()}}) == Twins(renamed=1, copied=1)
