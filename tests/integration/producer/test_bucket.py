"""What a bucket lists, on a server that speaks S3."""

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import obstore
import pytest
from obstore.store import S3Store

from base.buckets import BucketAccess
from base.errors import FailureReason, ImageError, SourceError, TransientError
from producer import bucket as bucket_module
from producer.bucket import Bucket
from producer.sources import Found
from tests.servers import S3
from tests.store_proxy import StoreProxy, store_proxy
from worker import fetching
from worker.fetching import fetch

NAMES = ["a.jpg", "a/b.jpg", "a.b.jpg", "a-b.jpg", "a b.jpg", "a%20b.jpg", "a+b.jpg", "a!.jpg", "ä.jpg", "a/é/1.jpg"]
NAMES += ["br[1].jpg", "日.jpg", "z.JPG", "quote'\".jpg", "q?h#.jpg", "{c}|<d>^`\\.jpg"]


@pytest.fixture
def proxy(s3: S3) -> Iterator[StoreProxy]:
    with store_proxy(s3.url) as server:
        yield server


@pytest.fixture
def access(proxy: StoreProxy) -> BucketAccess:
    return BucketAccess(endpoint=proxy.url)


@pytest.fixture
def store(s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return S3Store(s3.new_bucket())


@pytest.fixture
def url(store: S3Store) -> str:
    for name in [*NAMES, "notes.txt", "../photos2/x.jpg"]:
        obstore.put(store, f"photos/{name}" if "../" not in name else name[3:], name.encode())
    return f"s3://{store.config['bucket']}/photos"


def found(source: Bucket, after: str | None = None) -> list[Found]:
    return [one for part in source.stretches(after) for one in part.listing if isinstance(one, Found)]


def test_every_key_is_listed_once_and_fetched(url: str, access: BucketAccess) -> None:
    listed = found(Bucket(url, access=access))
    fetched = [fetch(one.uri, max_bytes=100, access=access, listed=one.fingerprint) for one in listed]

    assert sorted(one.encoded.decode() for one in fetched) == sorted(NAMES)
    assert [one.fingerprint for one in fetched] == [one.fingerprint for one in listed]


def test_stretches_are_in_the_order_of_their_uris(url: str, access: BucketAccess) -> None:
    parts = [[one.uri for one in part.listing] for part in Bucket(url, access=access).stretches()]

    assert [sorted(part) for part in parts] == parts
    assert min(map(len, parts)) > 3


def test_listing_goes_on_after_any_image(url: str, access: BucketAccess) -> None:
    source = Bucket(url, access=access)
    uris = [one.uri for one in found(source)]

    for position, uri in enumerate(uris):
        assert [one.uri for one in found(source, uri)] == uris[position + 1 :]


def test_globs_are_those_of_folders(url: str, access: BucketAccess) -> None:
    listed = found(Bucket(url, ["a*.jpg"], ["a/"], access=access))

    assert {one.uri.rpartition("/")[2] for one in listed} == {
        *("a.jpg", "a.b.jpg", "a-b.jpg", "a%20b.jpg", "a%2520b.jpg", "a+b.jpg", "a%21.jpg")
    }


def test_listing_that_falters_is_tried_again(
    url: str, access: BucketAccess, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "_FIRST_WAIT_SECONDS", 0.01)
    proxy.busy = 0.5
    assert len(found(Bucket(url, access=access))) == len(NAMES)

    proxy.busy, proxy.lists[:] = 1.0, []
    with pytest.raises(TransientError, match=r"photos cannot be listed: .*the same command then goes on"):
        found(Bucket(url, access=access))


def test_listing_of_several_pages_is_whole_whatever_falters(
    store: S3Store, access: BucketAccess, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "_FIRST_WAIT_SECONDS", 0.01)
    keys = [f"photos/{number:05}.jpg" for number in range(2100)]  # The server gives 1000 at a time.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: obstore.put(store, key, b"x"), keys))
    source = Bucket(f"s3://{store.config['bucket']}/photos", access=access)
    proxy.busy = 0.4

    uris = [one.uri for one in found(source)]

    assert uris == [f"s3://{store.config['bucket']}/{key}" for key in keys]
    assert len(proxy.lists) >= 3
    assert [one.uri for one in found(source, uris[1499])] == uris[1500:]


@pytest.mark.parametrize(
    ("status", "told"), [(404, "there is no bucket"), (403, "Told: No. Correct AWS_ACCESS_KEY_ID")]
)
def test_listing_that_is_refused_says_what_to_mend(
    url: str, access: BucketAccess, proxy: StoreProxy, status: int, told: str
) -> None:
    proxy.refused[""] = status

    with pytest.raises(SourceError, match=told):
        found(Bucket(url, access=access))


def test_key_that_cannot_be_read_is_named(url: str, access: BucketAccess, s3: S3) -> None:
    connection = http.client.HTTPConnection(s3.url.removeprefix("http://"))
    connection.request("PUT", f"/{url.split('/')[2]}/photos/twice//x.jpg", b"x")
    assert connection.getresponse().status == 200
    connection.close()

    with pytest.raises(SourceError, match=r"twice//x\.jpg.* rename that one"):
        found(Bucket(url, access=access))


@pytest.mark.parametrize(("status", "reason"), [(404, FailureReason.NOT_FOUND), (403, FailureReason.FORBIDDEN)])
def test_object_that_is_refused_fails_at_once(
    url: str, access: BucketAccess, proxy: StoreProxy, status: int, reason: FailureReason
) -> None:
    proxy.refused["a.jpg"] = status

    with pytest.raises(ImageError) as raised:
        fetch(f"{url}/a.jpg", max_bytes=100, access=access)

    assert raised.value.reason is reason


def test_object_that_changed_since_has_its_own_fingerprint(url: str, access: BucketAccess, store: S3Store) -> None:
    (listed,) = found(Bucket(url, ["a.jpg"], access=access))
    obstore.put(store, "photos/a.jpg", b"newer bytes")

    fetched = fetch(listed.uri, max_bytes=100, access=access, listed=listed.fingerprint)

    assert fetched.encoded == b"newer bytes"
    assert fetched.fingerprint == found(Bucket(url, ["a.jpg"], access=access))[0].fingerprint


def test_large_object_is_not_read(url: str, access: BucketAccess) -> None:
    with pytest.raises(ImageError) as raised:
        fetch(f"{url}/a.jpg", max_bytes=2, access=access)

    assert raised.value.reason is FailureReason.TOO_LARGE


def test_short_body_is_fetched_again_and_then_given_up(
    url: str, access: BucketAccess, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_FIRST_WAIT_SECONDS", 0.01)
    proxy.cut = 0.5
    assert fetch(f"{url}/a.jpg", max_bytes=100, access=access).encoded == b"a.jpg"

    proxy.cut = 1.0
    with pytest.raises(TransientError, match="8 times in a row"):
        fetch(f"{url}/a.jpg", max_bytes=100, access=access)
