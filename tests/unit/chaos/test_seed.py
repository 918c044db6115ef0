"""A seed repeats what `make chaos` did, as far as that is not a matter of time."""

from itertools import islice
from pathlib import Path

from tests.chaos.catalogue import Catalogue
from tests.chaos.faults import faults


def test_seed_repeats_the_faults() -> None:
    first, again, other = (list(islice(faults(seed, on_postgres=True), 60)) for seed in (7, 7, 8))

    assert first == again != other
    assert {fault.role for fault in first} == {"command", "worker", "worker process", "broker", "link", "PostgreSQL"}


def test_seed_repeats_the_images_and_their_changes(tmp_path: Path) -> None:
    first, again = (Catalogue(tmp_path / name, seed=7) for name in ("first", "again"))

    for _ in range(3):
        one, other = first.change(100), again.change(100)
        named = {uri.replace("/again/", "/first/"): image for uri, image in other.images.items()}
        assert one.images == named
    assert one.new and one.changed and one.gone
