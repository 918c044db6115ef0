"""Images in a bucket, classified and classified again after changes."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import obstore
import pytest
from obstore.store import S3Store

from tests.acceptance.conftest import Tagmill
from tests.samples import encode, make_tinted
from tests.servers import S3
from tests.store_proxy import StoreProxy, store_proxy


@pytest.fixture
def proxy(s3: S3) -> Iterator[StoreProxy]:
    with store_proxy(s3.url) as server:
        yield server


def jpeg(seed: int) -> bytes:
    return encode(make_tinted("red", seed, 32), "JPEG")


@pytest.fixture
def bucket(s3: S3, monkeypatch: pytest.MonkeyPatch, tagmill: Tagmill) -> tuple[str, S3Store]:
    """300 images below `photos`."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
        tagmill.environment[name] = value
    name = s3.new_bucket()
    store = S3Store(name)
    for number in range(300):
        obstore.put(store, f"photos/{number % 7}/{number:03}.jpg", jpeg(number))
    return f"s3://{name}/photos", store


def test_busy_store_and_then_a_night_of_changes(
    tagmill: Tagmill, bucket: tuple[str, S3Store], proxy: StoreProxy
) -> None:
    url, store = bucket
    proxy.busy, proxy.cut = 0.2, 0.05
    first = tagmill.run(url, "--endpoint", proxy.url)
    assert (first["listed"], first["classified"], first["failed"]) == (300, 300, 0)
    tagmill("verify")

    proxy.busy = proxy.cut = 0.0
    proxy.bodies.clear()
    second = tagmill.run(url, "--endpoint", proxy.url)
    assert (second["listed"], second["skipped"], second["classified"], proxy.bodies) == (300, 300, 0, [])

    key = [f"photos/{number % 7}/{number:03}.jpg" for number in range(300)]
    for number in range(100):
        obstore.rename(store, key[number], f"photos/renamed/{number}.jpg")
    for number in range(100, 150):
        obstore.copy(store, key[number], f"photos/copied {number}.jpg")
    for number in range(150, 200):
        obstore.put(store, key[number], jpeg(number))
    obstore.delete(store, key[200:210])
    for number in range(210, 215):
        obstore.put(store, key[number], jpeg(1000 + number))
    planned = json.loads(tagmill("plan", url, "--endpoint", proxy.url, "--json").stdout)
    assert [planned[name] for name in ("new", "renamed", "copied", "changed")] == [0, 100, 50, 5]
    assert [planned[name] for name in ("unchanged", "gone")] == [185, 110]
    proxy.bodies.clear()  # `plan` fetches some to measure the speed.
    third = tagmill.run(url, "--endpoint", proxy.url)

    assert (third["failed"], third["classified"] - third["reused"], third["gone"]) == (0, 5, 110)
    assert [third[name] for name in ("new", "changed", "reused", "skipped")] == [150, 5, 150, 185]
    assert (len(proxy.bodies), third["listed"]) == (155, 340)
    tagmill("verify")


def test_run_that_is_killed_while_it_lists_goes_on_from_its_cursor(
    tagmill: Tagmill, bucket: tuple[str, S3Store], proxy: StoreProxy
) -> None:
    url, store = bucket
    with ThreadPoolExecutor(8) as pool:  # Of the same bytes, so that all but one are answered at once.
        list(pool.map(lambda number: obstore.put(store, f"photos/z/{number:04}.jpg", jpeg(0)), range(900)))
    tagmill.environment["TAGMILL_IMAGES_PER_BATCH"] = "16"
    proxy.go_on.clear()
    command = ("run", url, "--endpoint", proxy.url, "--json")
    killed = tagmill.start(*command)
    tagmill.wait_for_batches(1)
    listed = tagmill.status()["listed"]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    proxy.go_on.set()

    done = tagmill(*command)

    facts = json.loads(done.stdout)
    assert 0 < listed < 1200
    assert "going on with run 1" in done.stderr
    assert (facts["run_id"], facts["listed"], facts["classified"], facts["failed"]) == (1, 1200, 1200, 0)
    (row,) = tagmill.sql("SELECT count(*) AS images, count(DISTINCT image_uri) AS different FROM current_labels")
    assert row == {"images": "1200", "different": "1200"}
    tagmill("verify")


def test_objects_that_are_refused_fail_and_the_rest_does_not(
    tagmill: Tagmill, bucket: tuple[str, S3Store], proxy: StoreProxy
) -> None:
    proxy.refused |= {"/000.jpg": 404, "/001.jpg": 403}

    facts = tagmill.run(bucket[0], "--endpoint", proxy.url)

    assert (facts["classified"], facts["failures"]) == (298, {"forbidden": 1, "not_found": 1})
