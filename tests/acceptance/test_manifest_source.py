"""A catalogue that names its images: on disk, in a bucket and on the web."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from tests.acceptance.conftest import Tagmill
from tests.samples import encode, make_tinted
from tests.servers import S3
from tests.web import Page, Web, web_server


def jpeg(seed: int) -> bytes:
    return encode(make_tinted("red", seed, 32), "JPEG")


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as server:
        yield server


class Shop:
    """A catalogue with one line for each (key, address, price), and where its images lie."""

    def __init__(self, path: Path, web: Web, bucket: str) -> None:
        self.path = path
        self.lines = [
            ("A1", "img/1.jpg", "10"),
            ("A1", (path.parent / "img" / "2.jpg").as_uri(), "10"),
            ("B2", f"s3://{bucket}/shop/3 b.jpg", "20"),
            ("B2", f"{web.url}/4.jpg", "20"),
            ("C3", f"{web.url}/moved.jpg#front", "30"),
            ("C3", "img/1.jpg", "30"),  # Two products share a photograph.
            ("C3", "img/gone.jpg", "30"),
        ]

    def write(self) -> None:
        with self.path.open("w", newline="") as file:
            csv.writer(file, delimiter=";").writerows([("sku", "image", "price"), *self.lines])


@pytest.fixture
def shop(tagmill: Tagmill, tmp_path: Path, s3: S3, web: Web, monkeypatch: pytest.MonkeyPatch) -> Shop:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
        tagmill.environment[name] = value
    tagmill.environment["TAGMILL_ALLOW_PRIVATE_URLS"] = "true"
    (tmp_path / "shop" / "img").mkdir(parents=True)
    for number in (1, 2):
        (tmp_path / "shop" / "img" / f"{number}.jpg").write_bytes(jpeg(number))
    bucket = s3.new_bucket()
    obstore.put(S3Store(bucket), "shop/3 b.jpg", jpeg(3))
    web.pages = {
        "/4.jpg": Page(jpeg(4), headers={"ETag": '"4"'}, busy=1),
        "/moved.jpg": Page(status=302, headers={"Location": "/5.jpg"}),
        "/5.jpg": Page(jpeg(5)),  # Its server does not say what its bytes are.
    }
    found = Shop(tmp_path / "shop" / "catalogue.csv", web, bucket)
    found.write()
    return found


def counts(facts: Mapping[str, object]) -> list[object]:
    return [facts[name] for name in ("listed", "skipped", "classified", "reused", "failed", "gone")]


def test_catalogue_and_its_nights(tagmill: Tagmill, shop: Shop, web: Web) -> None:
    command = (shop.path, "--key", "sku")
    first = tagmill.run(*command)
    assert counts(first) == [6, 0, 5, 0, 1, 0]
    assert (first["failures"], sum(label["images"] for label in first["labels"])) == ({"not_found": 1}, 5)
    tagmill("verify")

    web.asked.clear()
    planned = json.loads(tagmill("plan", *command, "--json").stdout)
    second = tagmill.run(*command)
    assert counts(second) == [6, 4, 1, 1, 1, 0]  # What nobody vouches for is fetched, and found to be the same.
    assert set(web.asked_for_bodies()) == {"/moved.jpg", "/5.jpg"}
    assert [planned[kind] for kind in ("new", "retry", "changed", "unchanged")] == [0, 1, 1, 4]

    columns = "SELECT key, columns ->> 'price' AS price FROM image_columns WHERE image_uri LIKE '%/1.jpg' ORDER BY key"
    assert [tuple(row.values()) for row in tagmill.sql(columns)] == [("A1", "10"), ("C3", "30")]
    products = "SELECT key, images FROM current_products ORDER BY key"
    assert [tuple(row.values()) for row in tagmill.sql(products)] == [("A1", "2"), ("B2", "2"), ("C3", "2")]

    shop.lines[0] = ("A1", "img/1.jpg", "11")
    del shop.lines[1]
    shop.lines.append(("D4", "img/new.jpg", "40"))
    (shop.path.parent / "img" / "new.jpg").write_bytes(jpeg(6))
    shop.write()
    third = tagmill.run(*command)
    assert counts(third) == [6, 3, 2, 1, 1, 1]
    assert [tuple(row.values()) for row in tagmill.sql(columns)] == [("A1", "11"), ("C3", "30")]
    assert [row["key"] for row in tagmill.sql(products)] == ["A1", "B2", "C3", "D4"]
    assert len(tagmill("results", "--source", shop.path, "--format", "csv").stdout.splitlines()) == 1 + 5
    tagmill("verify")


def test_retry_fetches_what_failed(tagmill: Tagmill, shop: Shop, web: Web) -> None:
    web.pages["/4.jpg"] = Page(status=404)
    (shop.path.parent / "img" / "gone.jpg").write_bytes(jpeg(7))
    assert tagmill.run(shop.path)["failures"] == {"not_found": 1}
    web.pages["/4.jpg"] = Page(jpeg(4))

    retried = json.loads(tagmill("retry", "--json").stdout)

    assert (retried["listed"], retried["classified"], retried["failed"]) == (1, 1, 0)


def test_private_urls_fail_unless_they_are_allowed(tagmill: Tagmill, shop: Shop, web: Web) -> None:
    del tagmill.environment["TAGMILL_ALLOW_PRIVATE_URLS"]

    facts = tagmill.run(shop.path)

    assert (facts["failures"], web.asked) == ({"forbidden": 2, "not_found": 1}, [])
    (row, *_) = tagmill.sql("SELECT message FROM failures_by_image WHERE reason = 'forbidden'")
    assert "TAGMILL_ALLOW_PRIVATE_URLS" in row["message"]


def test_manifest_in_a_bucket_names_what_lies_beside_it(tagmill: Tagmill, shop: Shop) -> None:
    bucket = shop.lines[2][1].split("/")[2]
    content = f"3 b.jpg\ns3://{bucket}/shop/none.jpg\n{(shop.path.parent / 'img' / '1.jpg').as_uri()}\n"
    obstore.put(S3Store(bucket), "shop/list.txt", content.encode())

    facts = tagmill.run(f"s3://{bucket}/shop/list.txt")

    assert (facts["source"], facts["failures"]) == (f"s3://{bucket}/shop/list.txt", {"not_found": 1})
    assert facts["classified"] == 2
    assert "there is no manifest" in tagmill("plan", f"s3://{bucket}/none.csv", code=2).stderr


def test_line_that_is_wrong_stops_before_anything_is_written(tagmill: Tagmill, shop: Shop) -> None:
    shop.lines.append(("E5", "ftp://shop.example/a.jpg", "50"))
    shop.write()

    for command in ("run", "plan"):
        assert (
            "catalogue.csv, line 9: 'ftp://shop.example/a.jpg' cannot be read"
            in tagmill(command, shop.path, code=2).stderr
        )
    assert not tagmill.home.exists()
