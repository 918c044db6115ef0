"""A manifest as a source: what its addresses mean, in which order, and what is there now."""

import os
import sys
from pathlib import Path

import pytest

from base.buckets import BucketAccess
from base.errors import FailureReason, ImageError, SourceError
from base.fingerprints import MISSING, UNKNOWN
from producer.addresses import address_to_uri
from producer.folder import Folder
from producer.manifest import is_manifest
from producer.sources import Found, Source, open_source, source_uri
from tests.web import Page, web_server
from worker.fetching import fetch

ACCESS = BucketAccess(private_urls=True)


def listing(source: Source, after: str | None = None) -> list[Found]:
    return [one for part in source.stretches(after) for one in part.listing if isinstance(one, Found)]


def manifest(folder: Path, lines: str, name: str = "m.csv", **options: str) -> Source:
    (folder / name).write_text(lines)
    return open_source(str(folder / name), access=ACCESS, **options)


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        ("a b%20.jpg", "file:///shop/a%20b%2520.jpg"),
        ("../img/./ä.jpg", "file:///img/%C3%A4.jpg"),
        ("/img/a.jpg", "file:///img/a.jpg"),
        ("file:///img/a%20b.jpg", "file:///img/a%20b.jpg"),
        ("s3://bucket/a b%20c.jpg", "s3://bucket/a%20b%20c.jpg"),
        ("https://Shop.example/a b.jpg#x", "https://shop.example/a%20b.jpg"),
    ],
)
def test_address_has_one_uri(address: str, uri: str) -> None:
    assert address_to_uri(address, "file:///shop/") == uri


def test_path_in_a_bucket_is_beside_its_manifest() -> None:
    assert address_to_uri("a b%.jpg", "s3://bucket/shop/") == "s3://bucket/shop/a%20b%25.jpg"


@pytest.mark.parametrize(
    "address",
    ["ftp://host/a.jpg", "file://host/a.jpg", "s3://bucket", "az://b/a?sig=1", "file:///a%00.jpg", "x" * 2001],
)
def test_address_that_nobody_can_fetch_stops_with_its_line(tmp_path: Path, address: str) -> None:
    source = manifest(tmp_path, f"image\na.jpg\n{address}\n")

    with pytest.raises(SourceError, match=r"^m\.csv, line 3: "):
        listing(source)


def test_images_come_in_order_each_once_with_its_rows(tmp_path: Path) -> None:
    source = manifest(tmp_path, "image,sku,n\nb.jpg,2,x\na.jpg,1,x\nb.jpg,1,y\nb.jpg,2,z\n", key="sku")

    found = listing(source)

    assert [one.uri for one in found] == [(tmp_path / name).as_uri() for name in ("a.jpg", "b.jpg")]
    assert found[1].rows == (("1", '{"n":"y"}'), ("2", '{"n":"z"}'))  # Of the same image and key the last one.
    assert listing(source, found[0].uri) == found[1:]


def test_file_is_known_as_a_folder_lists_it(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(b"pixels")
    (tmp_path / "link").symlink_to("real")
    source = manifest(tmp_path, "image\nlink/a.jpg\n")

    (found,) = listing(source)
    (listed,) = Folder(str(tmp_path / "real")).walk()

    assert isinstance(listed, Found)
    assert (found.uri, found.fingerprint, found.size_bytes) == (listed.uri, listed.fingerprint, listed.size_bytes)


def test_what_is_not_there_is_listed_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to("m.csv")
    source = manifest(tmp_path, "image\ngone.jpg\nfolder.jpg\nlink.jpg\n")

    assert [one.fingerprint for one in listing(source)] == [MISSING] * 3


def test_urls_are_looked_at_without_their_bodies(tmp_path: Path) -> None:
    tag = {"ETag": '"x"'}
    with web_server() as web:
        web.pages = {
            "/1-known": Page(b"pixels", headers=tag),
            "/2-untold": Page(b"pixels"),
            "/3-refused": Page(b"pixels", headers=tag, heads=405),
            "/4-unable": Page(b"pixels", headers=tag, heads=501),
            "/5-forbidden": Page(status=403),
            "/6-broken": Page(status=500),
        }
        source = manifest(tmp_path, "\n".join([web.url + path for path in [*web.pages, "/7-nothing"]]), "m.txt")

        found = listing(source)

    assert [one.fingerprint for one in found] == ["6-x", UNKNOWN, UNKNOWN, UNKNOWN, MISSING, UNKNOWN, MISSING]
    assert web.asked_for_bodies() == []


def test_private_url_is_left_to_the_worker_which_refuses_it(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("http://localhost:9/a.jpg")

    (found,) = listing(open_source(str(tmp_path / "m.txt"), access=BucketAccess()))

    assert found.fingerprint == MISSING
    with pytest.raises(ImageError) as raised:
        fetch(found.uri, max_bytes=10)
    assert raised.value.reason is FailureReason.FORBIDDEN


def test_suffix_makes_a_manifest_unless_a_folder_has_it(tmp_path: Path) -> None:
    (tmp_path / "photos.csv").mkdir()
    addresses = ["m.csv", "M.JSONL", "m.ndjson", "m.parquet", "m.txt", "file:///m.csv", "s3://bucket/m.csv"]
    others = ["m.jpg", "csv", "s3://bucket/m.csv/", "https://host/m.csv", str(tmp_path / "photos.csv")]

    assert [is_manifest(address) for address in addresses + others] == [True] * 7 + [False] * 5


def test_manifest_has_the_uri_that_results_ask_for(tmp_path: Path) -> None:
    source = manifest(tmp_path, "image\n")

    assert source.uri == source_uri(str(tmp_path / "m.csv")) == open_source(source.uri, access=ACCESS).uri


def test_manifest_in_too_long_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["椅" * 80] * 3)
    folder.mkdir(parents=True)

    with pytest.raises(SourceError, match="Move it up"):
        manifest(folder, "image\n")


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("m.txt", {"column": "image"}, "Leave out --column"),
        ("m.txt", {"key": "sku"}, "Leave out --key"),
        ("m.csv", {"include": ["*.jpg"]}, "Leave out --include"),
        ("photos", {"column": "image"}, "is no manifest, and --column is for those"),
        ("none.csv", {}, "there is no manifest"),
    ],
)
def test_option_that_does_not_fit_is_refused(tmp_path: Path, name: str, options: dict[str, object], told: str) -> None:
    (tmp_path / "photos").mkdir()
    for file in ("m.txt", "m.csv"):
        (tmp_path / file).touch()

    with pytest.raises(SourceError, match=told):
        open_source(str(tmp_path / name), access=ACCESS, **options)  # type: ignore[arg-type]


def test_parquet_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(SourceError, match=r"pip install 'tagmill\[parquet\]'"):
        listing(manifest(tmp_path, "", "m.parquet"))


def test_nothing_stays_open(tmp_path: Path) -> None:
    source = manifest(tmp_path, "image\n" + "\n".join(f"{number}.jpg" for number in range(300)))
    listing(source)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        next(iter(next(iter(source.stretches())).listing))
    del source

    assert len(os.listdir("/proc/self/fd")) <= before
