"""Images that end or hang the process that looks at them, and models that are not what they were."""

import shutil
from pathlib import Path

from models.registry import Registry
from tests.acceptance.conftest import Tagmill
from tests.acceptance.test_run import make_many
from tests.samples import make_jpeg

# An audit hook sees every file that is opened, from before any of our code runs.
SABOTAGE = """
import os, sys, time

def watch(event, arguments):
    if event == "open" and os.getpid() != started:
        name = os.fsencode(str(arguments[0]))
        if b"kills" in name:
            os.kill(os.getpid(), 9)
        elif b"hangs" in name:
            time.sleep(600)
        elif b"hogs" in name:
            bytearray(2**40)

command = " ".join(sys.orig_argv)
started = 0 if "spawn_main" in command else os.getpid()  # Of a worker, whose first processes are forked.
if started == 0 or "celery_worker" in command:
    sys.addaudithook(watch)
"""


def test_poison_images_fail_alone(tagmill: Tagmill, tmp_path: Path) -> None:
    folder = make_many(tmp_path / "many", 9)
    for name in ("0002-kills.jpg", "0005-hangs.jpg", "0008-hogs.jpg"):  # Each in a batch of its own.
        (folder / name).write_bytes(make_jpeg(colour="green"))
    (tmp_path / "sabotage").mkdir()
    (tmp_path / "sabotage" / "sitecustomize.py").write_text(SABOTAGE)
    tagmill.environment |= {
        "PYTHONPATH": str(tmp_path / "sabotage"),
        "TAGMILL_IMAGES_PER_BATCH": "4",
        "TAGMILL_IMAGE_SECONDS": "1",
    }

    facts = tagmill.run(folder, "--workers", "2")

    assert facts["classified"] == 9
    rows = tagmill.sql("SELECT image_uri, reason, attempts FROM failures_by_image")
    assert {row["image_uri"].rpartition("-")[2]: (row["reason"], row["attempts"]) for row in rows} == {
        "kills.jpg": ("worker_lost", "6"),  # Two each in a batch of 4, of 2 and alone.
        "hangs.jpg": ("timeout", "6"),
        "hogs.jpg": ("too_large", "1"),
    }
    tagmill("verify")


def test_altered_model_file_stops_the_run_until_it_is_mended(
    tagmill: Tagmill, photos: Path, tmp_path: Path, pretrained_registry: Registry
) -> None:
    models = Path(shutil.copytree(pretrained_registry.root, tmp_path / "models"))
    tagmill.environment["TAGMILL_MODELS_URL"] = str(models)
    file = models / "efficientnet_lite0" / "1" / "int8.tflite"
    original = file.read_bytes()
    file.write_bytes(original[:-1] + b"?")

    line = tagmill("run", photos, code=2).stderr.splitlines()[-1]

    assert "run 1 stopped" in line
    assert "int8.tflite differs from what was published" in line
    assert tagmill.status()["status"] == "failed"
    assert tagmill.rows() == {}
    file.write_bytes(original)
    facts = tagmill.run(photos)
    assert (facts["run_id"], facts["classified"]) == (1, 20)
    tagmill("verify")
