"""What a bucket lists and gives, on servers that speak as each of the three clouds does."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from base.buckets import CREDENTIALS, BucketAccess
from base.errors import FailureReason, ImageError, SourceError, TransientError
from producer import bucket as bucket_module
from producer.bucket import Bucket
from producer.sources import Found
from tests.servers import S3, Azure, BucketServer
from tests.store_proxy import StoreProxy
from worker import fetching
from worker.fetching import fetch

NAMES = ["a.jpg", "a/b.jpg", "a.b.jpg", "a-b.jpg", "a b.jpg", "a%20b.jpg", "a+b.jpg", "a!.jpg", "ä.jpg", "a/é/1.jpg"]
NAMES += ["br[1].jpg", "日.jpg", "z.JPG", "quote'\".jpg", "q?h#.jpg", "{c}|<d>^`\\.jpg"]


@pytest.fixture
def access(proxy: StoreProxy) -> BucketAccess:
    return BucketAccess(endpoint=proxy.url)


@pytest.fixture
def bucket(bucket_server: BucketServer) -> str:
    return bucket_server.new_bucket()


@pytest.fixture
def url(bucket_server: BucketServer, bucket: str) -> str:
    for key in (*(f"photos/{name}" for name in NAMES), "photos/notes.txt", "photos2/x.jpg"):
        bucket_server.put(bucket, key, key.removeprefix("photos/").encode())
    return f"{bucket_server.scheme}://{bucket}/photos"


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bucket_module, fetching):
        monkeypatch.setattr(module, "_FIRST_WAIT_SECONDS", 0.001)
        monkeypatch.setattr(module, "_LONGEST_WAIT_SECONDS", 0.01)


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


def test_endpoint_may_end_with_a_slash(url: str, bucket_server: BucketServer) -> None:
    assert len(found(Bucket(url, access=BucketAccess(endpoint=f"{bucket_server.url}/")))) == len(NAMES)


def test_globs_are_those_of_folders(url: str, access: BucketAccess) -> None:
    listed = found(Bucket(url, ["a*.jpg"], ["a/"], access=access))

    assert {one.uri.rpartition("/")[2] for one in listed} == {
        *("a.jpg", "a.b.jpg", "a-b.jpg", "a%20b.jpg", "a%2520b.jpg", "a+b.jpg", "a%21.jpg")
    }


@pytest.mark.parametrize("name", ["a.b.jpg", "ä.jpg", "notes.txt"])
def test_one_object_is_a_source(url: str, access: BucketAccess, name: str) -> None:
    source = Bucket(f"{url}/{name}", access=access)

    (listed,) = found(source)

    assert fetch(listed.uri, max_bytes=100, access=access).fingerprint == listed.fingerprint
    assert (listed.uri, source.uri_range) == (source.uri, (source.uri, source.uri + " "))
    assert found(source, listed.uri) == []
    assert source.lists(listed.uri) and not source.lists(f"{url}/a.jpg")


def test_object_with_others_below_it_is_their_prefix(
    bucket_server: BucketServer, bucket: str, access: BucketAccess
) -> None:
    for key in ("photos", "photos/a.jpg"):
        bucket_server.put(bucket, key, b"x")

    (listed,) = found(Bucket(f"{bucket_server.scheme}://{bucket}/photos", access=access))

    assert listed.uri.endswith("/photos/a.jpg")


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("status", [429, 500, 503])
def test_listing_that_falters_is_tried_again(url: str, access: BucketAccess, proxy: StoreProxy, status: int) -> None:
    proxy.busy, proxy.busy_status = 0.5, status
    assert len(found(Bucket(url, access=access))) == len(NAMES)

    proxy.busy, proxy.lists[:] = 1.0, []
    with pytest.raises(TransientError, match=r"photos cannot be looked at: .*the same command then goes on"):
        found(Bucket(url, access=access))


@pytest.mark.usefixtures("short_waits")
def test_listing_of_several_pages_is_whole_whatever_falters(
    bucket_server: BucketServer,
    bucket: str,
    access: BucketAccess,
    proxy: StoreProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [f"photos/{number:03}.jpg" for number in range(210)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: bucket_server.put(bucket, key, b"x"), keys))
    uris = [f"{bucket_server.scheme}://{bucket}/{key}" for key in keys]
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")  # What the proxy changes, to get small pages, is not signed.
    monkeypatch.setattr(bucket_module, "_KEYS_PER_PAGE", 50)
    source = Bucket(f"{bucket_server.scheme}://{bucket}/photos", access=access)
    proxy.busy, proxy.page_size = 0.4, 50

    listed = [one.uri for one in found(source)]

    assert listed == uris
    assert len(proxy.lists) >= (1 if bucket_server.scheme == "gs" else 5)  # fake-gcs-server knows no pages.
    assert [one.uri for one in found(source, uris[149])] == uris[150:]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (404, "there is no bucket 'bucket-.*' at http://.* Correct its name or --endpoint"),
        (403, "Told: No. Correct {credentials}, or what these are"),
    ],
)
def test_listing_that_is_refused_says_what_to_mend(
    url: str, access: BucketAccess, proxy: StoreProxy, status: int, told: str
) -> None:
    proxy.refused[""] = status

    with pytest.raises(SourceError, match=told.format(credentials=CREDENTIALS[url[:2]])):
        found(Bucket(url, access=access))


@pytest.mark.azure
def test_azure_key_that_is_wrong_stops_listing_and_fetching(az: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", az.account)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "b3RoZXI=")
    uri, access = "az://not-for-everybody/a.jpg", BucketAccess(endpoint=az.url)

    with pytest.raises(SourceError, match=r"AuthorizationFailure: .* Correct AZURE_STORAGE_ACCOUNT_NAME and"):
        found(Bucket(uri, access=access))
    with pytest.raises(SourceError, match=r"AuthorizationFailure: .* Correct AZURE_STORAGE_ACCOUNT_NAME and"):
        fetch(uri, max_bytes=100, access=access)


def test_key_that_cannot_be_read_is_named(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    bucket = s3.new_bucket()
    s3.request("PUT", f"/{bucket}/photos/twice//x.jpg", b"x")

    with pytest.raises(SourceError, match=r"twice//x\.jpg.* rename that one"):
        found(Bucket(f"s3://{bucket}/photos", access=BucketAccess(endpoint=s3.url)))


@pytest.mark.parametrize(("status", "reason"), [(404, FailureReason.NOT_FOUND), (403, FailureReason.FORBIDDEN)])
def test_object_that_is_refused_fails_at_once(
    url: str, access: BucketAccess, proxy: StoreProxy, status: int, reason: FailureReason
) -> None:
    proxy.refused["a.jpg"] = status

    with pytest.raises(ImageError) as raised:
        fetch(f"{url}/a.jpg", max_bytes=100, access=access)

    assert raised.value.reason is reason


def test_object_that_changed_since_has_its_own_fingerprint(
    bucket_server: BucketServer, bucket: str, url: str, access: BucketAccess
) -> None:
    (listed,) = found(Bucket(url, ["a.jpg"], access=access))
    bucket_server.put(bucket, "photos/a.jpg", b"newer bytes")

    fetched = fetch(listed.uri, max_bytes=100, access=access, listed=listed.fingerprint)

    assert fetched.encoded == b"newer bytes"
    assert fetched.fingerprint == found(Bucket(url, ["a.jpg"], access=access))[0].fingerprint


def test_large_object_is_not_read(url: str, access: BucketAccess) -> None:
    with pytest.raises(ImageError) as raised:
        fetch(f"{url}/a.jpg", max_bytes=2, access=access)

    assert raised.value.reason is FailureReason.TOO_LARGE


@pytest.mark.usefixtures("short_waits")
def test_short_body_is_fetched_again_and_then_given_up(url: str, access: BucketAccess, proxy: StoreProxy) -> None:
    proxy.cut = 0.5
    assert fetch(f"{url}/a.jpg", max_bytes=100, access=access).encoded == b"a.jpg"

    proxy.cut = 1.0
    with pytest.raises(TransientError, match="8 times in a row"):
        fetch(f"{url}/a.jpg", max_bytes=100, access=access)
