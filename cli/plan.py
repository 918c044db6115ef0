"""`tagmill plan`: what a run would do."""

from typing import TYPE_CHECKING, Any

from base.settings import Settings, load_settings
from cli.options import Column, Endpoint, Everything, Exclude, Include, Json, Key, Model, Source
from cli.output import PASSED_OVER, duration, facts_table, print_json, progress, say

if TYPE_CHECKING:
    from models.registry import ModelVersion
    from producer.plan import Plan


def plan(
    source: Source,
    model: Model = None,
    include: Include = None,
    exclude: Exclude = None,
    column: Column = None,
    key: Key = None,
    everything: Everything = False,
    endpoint: Endpoint = None,
    json: Json = False,
) -> None:
    """List and compare a source as a run with the same options would, and write nothing.

    The time is that of one worker process per core of this machine, from a few images classified here and now. Renamed
    and copied images are those whose bytes have an answer under another name; where only reading would tell, they are
    new here, and `reused` in the run.

    Example: tagmill plan ./photos
    """
    from cli.pretrained import check_model
    from models.pretrained import DEFAULT_MODEL
    from models.registry import open_registry
    from producer.plan import make_plan
    from producer.sources import check_not_empty, open_source
    from producer.start_run import make_request
    from results.runs import find_hold
    from results.schema import open_existing

    settings = load_settings().with_endpoint(endpoint)
    images = open_source(source, include or (), exclude or (), access=settings.bucket_access, column=column, key=key)
    check_not_empty(images)
    registry = open_registry(settings)
    check_model(registry, model)
    version = registry.find(model or DEFAULT_MODEL) if model or registry.has(DEFAULT_MODEL) else None
    request = make_request(images, version, everything=everything)
    with progress(quiet=json) as reporter:
        reporter.update("listing", None)
        db = open_existing(settings)
        made = make_plan(db, images, request)
        reporter.update("measuring the speed", None)
        speed = _measure(settings, version, made)
    facts = {
        "source": images.uri,
        "model": f"{request.model}:{request.model_version}",
        "new": made.new,
        "changed": made.changed,
        "retry": made.retry,
        "unchanged": made.unchanged,
        "again": made.again,
        "gone": made.gone,
        "renamed": made.renamed,
        "copied": made.copied,
        "passed_over": made.passed_over,
        "bytes": made.size_bytes,
        "unfinished_run": made.unfinished,
        "waiting": made.waiting,
        "images_per_second": round(speed, 1) if speed else None,
        "expected_seconds": round(made.work / speed) if speed else None,
    }
    if json:
        print_json(facts)
    else:
        _print(facts, is_built=version is not None)
    if db is not None and (held := find_hold(db, images.uri)) is not None:
        say(f"run {held.run_id} of this source is being run by {held.command}; until it has ended, another is refused")


def _measure(settings: Settings, version: "ModelVersion | None", made: "Plan") -> float | None:
    """Images per second of this machine; None where nothing tells."""
    from models.decoding import DecodingLimits
    from worker.local import cores
    from worker.speed import measure_speed

    if version is None or not made.sample:
        return None
    limits = DecodingLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    speed = measure_speed(version, limits, made.sample, access=settings.bucket_access)
    return speed * cores() if speed else None


def _print(facts: dict[str, Any], *, is_built: bool) -> None:
    rows: list[tuple[str, object]] = [(name, facts[name]) for name in ("new", "changed", "retry", "unchanged")]
    if facts["again"]:
        rows.append(("again", f"{facts['again']} (unchanged, and wanted with --all)"))
    rows += [(name, facts[name]) for name in ("gone", "renamed", "copied")]
    if facts["passed_over"]:
        rows.append(("passed over", f"{facts['passed_over']} ({PASSED_OVER})"))
    if facts["unfinished_run"]:
        rows.append(("waiting", f"{facts['waiting']} (of run {facts['unfinished_run']}, which is gone on with)"))
    without = ", without those waiting" if facts["waiting"] else ""
    rows.append(("bytes", f"{facts['bytes']} ({facts['bytes'] / 1e6:,.1f} MB{without})"))
    if facts["expected_seconds"] is not None:
        speed = f"{facts['images_per_second']:.0f} images per second on this machine"
        rows.append(("expected time", f"{duration(facts['expected_seconds'])} and a few seconds to start ({speed})"))
    facts_table(rows)
    if not is_built:
        say("the pretrained model is not built yet; the first run builds it, in about a minute")
