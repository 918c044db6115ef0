"""Buckets' URLs, and the order of keys and URIs."""

from datetime import UTC, datetime

import pytest

from base.buckets import fingerprint_of, is_in_key_order, key_to_uri, listed_as, split_uri
from base.errors import SourceError
from producer.bucket import parse_bucket_url
from producer.sources import source_uri

KEYS = ["a", "a/b", "a.b", "a-b", "a b", "a%20b", "a+b", "a!b", "a$b", "a'b", "aä", "a[1]", "a~", "a_", "a^", "A", "日"]


def test_keys_in_order_have_their_uris_in_order() -> None:
    pairs = [(key.encode(), uri) for key in KEYS if is_in_key_order(uri := key_to_uri("s3://bucket", key))]

    assert [uri for _, uri in sorted(pairs)] == sorted(uri for _, uri in pairs)
    assert len(pairs) == len(KEYS) - 4  # ä, [, ^ and 日.


def test_key_comes_back_from_its_uri() -> None:
    assert [split_uri(key_to_uri("s3://bucket", key)) for key in KEYS] == [("s3", "bucket", key) for key in KEYS]


@pytest.mark.parametrize(
    ("url", "uri"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("gs://bucket/ä b!", "gs://bucket/%C3%A4%20b%21"),
        ("az://bucket/a%20b", "az://bucket/a%20b"),
    ],
)
def test_source_has_one_uri(url: str, uri: str) -> None:
    assert (parse_bucket_url(url).uri, source_uri(url)) == (uri, uri)


@pytest.mark.parametrize("url", ["s3://", "s3://key:secret@bucket/a", "az://bucket/a?sig=secret", "s3://bucket/a//b"])
def test_url_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(SourceError) as raised:
        parse_bucket_url(url)

    assert "secret" not in str(raised.value)


def test_etag_of_a_listing_equals_that_of_the_object() -> None:
    now = datetime(2026, 1, 1, 0, 0, 0, 5000, tzinfo=UTC)

    assert {fingerprint_of(7, tag, now) for tag in ('"x-2"', "x-2", 'W/"x-2"')} == {"7-x-2"}
    assert fingerprint_of(7, None, now) == fingerprint_of(7, None, now.replace(microsecond=0))
    assert [listed_as(one) for one in ("7-x-2", "7@12", "listed")] == [(7, "x-2"), (7, None), (0, None)]
