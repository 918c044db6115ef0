"""New, changed, unchanged, gone."""

from producer.changes import Kind, compare
from producer.sources import Found, PassedOver
from results.listing import KnownImage


def found(uri: str, fingerprint: str = "1") -> Found:
    return Found(uri=uri, fingerprint=fingerprint, size_bytes=1)


def known(
    uri: str, fingerprint: str | None = "1", *, answered: bool = True, gone: bool = False, failed: bool = False
) -> KnownImage:
    return KnownImage(image_id=hash(uri), uri=uri, fingerprint=fingerprint, answered=answered, gone=gone, failed=failed)


def kinds(listing: list[Found | PassedOver], images: list[KnownImage], *, everything: bool = False) -> dict[str, Kind]:
    changes = compare(listing, images, lambda uri: not uri.endswith(".txt"), everything=everything)
    return {change.uri: change.kind for change in changes}


def test_each_image_is_told_by_what_is_known_of_it() -> None:
    listing = [found("a"), found("b", "2"), found("c"), found("d"), found("f"), found("g"), found("h", "2")]
    images = [known("b"), known("c"), known("d", answered=False), known("e"), known("f", None, answered=False)]
    images += [known(uri, answered=False, failed=True) for uri in ("g", "h")]

    assert kinds(listing, images) == {
        "a": Kind.NEW,
        "b": Kind.CHANGED,
        "c": Kind.UNCHANGED,
        "d": Kind.NEW,  # Answered by another model version only.
        "e": Kind.GONE,
        "f": Kind.NEW,  # Listed before, and never looked at.
        "g": Kind.RETRY,
        "h": Kind.CHANGED,
    }


def test_unchanged_images_need_work_again_where_everything_is_wanted() -> None:
    listing, images = [found("a"), found("b"), found("c", "2")], [known("b"), known("c")]

    assert kinds(listing, images, everything=True) == {"a": Kind.NEW, "b": Kind.AGAIN, "c": Kind.CHANGED}


def test_images_before_and_after_the_listing_are_gone() -> None:
    assert kinds([found("m")], [known("a"), known("m"), known("z")]) == {
        "a": Kind.GONE,
        "m": Kind.UNCHANGED,
        "z": Kind.GONE,
    }


def test_image_is_gone_only_once() -> None:
    assert kinds([], [known("a", gone=True)]) == {}


def test_image_that_came_back_is_told_with_what_was_known() -> None:
    (change,) = compare([found("a")], [known("a", gone=True)], lambda uri: True)

    assert change.kind is Kind.UNCHANGED
    assert change.known is not None
    assert change.known.gone


def test_image_that_the_globs_leave_out_is_not_gone() -> None:
    assert kinds([], [known("a.txt")]) == {}


def test_nothing_is_gone_below_a_folder_that_cannot_be_read() -> None:
    listing = [found("a"), PassedOver(uri="b/", is_hidden=True), found("c")]
    images = [known("a"), known("b/1"), known("b/2"), known("bb"), known("c")]

    assert kinds(listing, images) == {
        "a": Kind.UNCHANGED,
        "b/": Kind.PASSED_OVER,
        "bb": Kind.GONE,
        "c": Kind.UNCHANGED,
    }


def test_image_that_cannot_be_looked_at_is_not_gone() -> None:
    listing = [PassedOver(uri="a.jpg", is_hidden=True)]

    assert kinds(listing, [known("a.jpg"), known("a.jpg2")]) == {"a.jpg": Kind.PASSED_OVER, "a.jpg2": Kind.GONE}


def test_image_that_became_a_link_is_gone() -> None:
    assert kinds([PassedOver(uri="a.jpg", is_hidden=False)], [known("a.jpg")]) == {"a.jpg": Kind.GONE}
