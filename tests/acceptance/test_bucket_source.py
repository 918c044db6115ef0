"""Images in a bucket, classified and classified again after changes."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.acceptance.conftest import Tagmill
from tests.samples import encode, make_tinted
from tests.servers import BucketServer
from tests.store_proxy import StoreProxy

KEYS = [f"photos/{number % 7}/{number:03}.jpg" for number in range(300)]


def jpeg(seed: int) -> bytes:
    return encode(make_tinted("red", seed, 32), "JPEG")


@pytest.fixture
def bucket(bucket_server: BucketServer, tagmill: Tagmill) -> str:
    """The name of an empty one."""
    tagmill.environment |= bucket_server.environment
    return bucket_server.new_bucket()


@pytest.fixture
def source(bucket_server: BucketServer, bucket: str, proxy: StoreProxy) -> tuple[str, str, str]:
    """What a command is told."""
    return f"{bucket_server.scheme}://{bucket}/photos", "--endpoint", proxy.url


def test_busy_store_and_then_a_night_of_changes(
    tagmill: Tagmill, bucket_server: BucketServer, bucket: str, source: tuple[str, str, str], proxy: StoreProxy
) -> None:
    for number, key in enumerate(KEYS):
        bucket_server.put(bucket, key, jpeg(number))
    proxy.busy, proxy.cut = 0.2, 0.05
    first = tagmill.run(*source)
    assert (first["listed"], first["classified"], first["failed"]) == (300, 300, 0)
    tagmill("verify")

    proxy.busy = proxy.cut = 0.0
    proxy.bodies.clear()
    second = tagmill.run(*source)
    assert (second["listed"], second["skipped"], second["classified"], proxy.bodies) == (300, 300, 0, [])

    for number in range(100):
        bucket_server.rename(bucket, KEYS[number], f"photos/renamed/{number}.jpg")
    for number in range(100, 150):
        bucket_server.copy(bucket, KEYS[number], f"photos/copied {number}.jpg")
    for number in range(150, 200):
        bucket_server.put(bucket, KEYS[number], jpeg(number))
    bucket_server.delete(bucket, *KEYS[200:210])
    for number in range(210, 215):
        bucket_server.put(bucket, KEYS[number], jpeg(1000 + number))
    planned = json.loads(tagmill("plan", *source, "--json").stdout)
    proxy.bodies.clear()  # `plan` fetches some to measure the speed.
    third = tagmill.run(*source)

    # Azure's ETags change with every write; the others are hashes of the bytes, so what was touched is not fetched.
    changed = 55 if bucket_server.scheme == "az" else 5
    renamed, copied = (100, 50) if bucket_server.scheme == "s3" else (0, 0)
    assert [planned[name] for name in ("renamed", "copied")] == [renamed, copied]
    assert [planned[name] for name in ("new", "changed")] == [150 - renamed - copied, changed]
    assert [planned[name] for name in ("unchanged", "gone")] == [190 - changed, 110]
    assert (third["failed"], third["classified"] - third["reused"]) == (0, 5)
    assert [third[name] for name in ("listed", "new", "changed", "skipped")] == [340, 150, changed, 190 - changed]
    assert len(proxy.bodies) == 150 + changed
    tagmill("verify")


# fake-gcs-server lists all keys in one answer, so a listing of it has no middle to wait in.
@pytest.mark.parametrize("bucket_server", ["s3", pytest.param("az", marks=pytest.mark.azure)], indirect=True)
def test_run_that_is_killed_while_it_lists_goes_on_from_its_cursor(
    tagmill: Tagmill, bucket_server: BucketServer, bucket: str, source: tuple[str, str, str], proxy: StoreProxy
) -> None:
    images = [jpeg(number) for number in range(8)]  # Eight different ones, so that most are answered at once.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: bucket_server.put(bucket, f"photos/{n:04}.jpg", images[n % 8]), range(1200)))
    tagmill.environment |= {"TAGMILL_IMAGES_PER_BATCH": "16", "AZURE_SKIP_SIGNATURE": "true"}
    proxy.page_size = 1000  # Azure would give 5000; what is changed for that may not be signed.
    proxy.go_on.clear()
    killed = tagmill.start("run", *source, "--json")
    tagmill.wait_for_batches(1)
    listed = tagmill.status()["listed"]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    proxy.go_on.set()

    done = tagmill("run", *source, "--json")

    facts = json.loads(done.stdout)
    assert 0 < listed < 1200
    assert "going on with run 1" in done.stderr
    assert (facts["run_id"], facts["listed"], facts["classified"], facts["failed"]) == (1, 1200, 1200, 0)
    (row,) = tagmill.sql("SELECT count(*) AS images, count(DISTINCT image_uri) AS different FROM current_labels")
    assert row == {"images": "1200", "different": "1200"}
    tagmill("verify")


@pytest.mark.parametrize("bucket_server", ["s3"], indirect=True)
def test_objects_that_are_refused_fail_and_the_rest_does_not(
    tagmill: Tagmill, bucket_server: BucketServer, bucket: str, source: tuple[str, str, str], proxy: StoreProxy
) -> None:
    for number, key in enumerate(KEYS[:20]):
        bucket_server.put(bucket, key, jpeg(number))
    proxy.refused |= {"/000.jpg": 404, "/001.jpg": 403}

    facts = tagmill.run(*source)

    assert (facts["classified"], facts["failures"]) == (18, {"forbidden": 1, "not_found": 1})


@pytest.mark.parametrize("bucket_server", ["s3"], indirect=True)
def test_plan_of_a_bucket_counts_what_the_next_run_does(
    tagmill: Tagmill, bucket_server: BucketServer, bucket: str, source: tuple[str, str, str]
) -> None:
    for number, key in enumerate(KEYS[:10]):
        bucket_server.put(bucket, key, jpeg(number))
    tagmill.run(*source)
    bucket_server.put(bucket, KEYS[0], jpeg(1000))
    bucket_server.put(bucket, KEYS[1], jpeg(1))
    bucket_server.put(bucket, KEYS[10], jpeg(10))
    bucket_server.delete(bucket, KEYS[2])

    planned = json.loads(tagmill("plan", *source, "--json").stdout)

    assert [planned[name] for name in ("new", "changed", "unchanged", "gone")] == [1, 1, 8, 1]
    facts = tagmill.run(*source)
    assert [facts[name] for name in ("classified", "skipped", "gone")] == [2, 8, 1]


@pytest.mark.parametrize("bucket_server", ["s3"], indirect=True)
def test_retry_fetches_again_what_failed_in_a_bucket(
    tagmill: Tagmill, bucket_server: BucketServer, bucket: str, source: tuple[str, str, str], proxy: StoreProxy
) -> None:
    for number, key in enumerate(KEYS[:10]):
        bucket_server.put(bucket, key, jpeg(number))
    proxy.refused |= {"/000.jpg": 403, "/001.jpg": 403}
    assert tagmill.run(*source)["failed"] == 2
    proxy.refused.clear()
    proxy.bodies.clear()

    facts = json.loads(tagmill("retry", "1", *source[1:], "--json").stdout)

    assert (facts["classified"], facts["failed"]) == (2, 0)
    assert sorted(path.rpartition("/")[2] for path in proxy.bodies) == ["000.jpg", "001.jpg"]
    tagmill("verify")


@pytest.mark.parametrize("bucket_server", ["s3"], indirect=True)
def test_one_object_is_classified_as_one_file_is(
    tagmill: Tagmill, bucket_server: BucketServer, bucket: str, source: tuple[str, str, str]
) -> None:
    for number, key in enumerate(KEYS[:3]):
        bucket_server.put(bucket, key, jpeg(number))
    address = f"s3://{bucket}/{KEYS[1]}"

    facts = tagmill.run(address, *source[1:])

    assert (facts["listed"], facts["classified"], sum(label["images"] for label in facts["labels"])) == (1, 1, 1)
    rows = tagmill("results", "--source", address, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(row)["image_uri"] for row in rows] == [address]
    assert tagmill.run(*source)["skipped"] == 1
