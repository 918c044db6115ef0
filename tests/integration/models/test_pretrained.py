import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from base.errors import ModelError
from models import pretrained
from models.decoding import DecodingLimits, decode
from models.engines.fake import FakeEngine
from models.engines.litert import LitertEngine
from models.predictions import confidences, top_k
from models.preprocessing import Preprocessing
from models.pretrained import BUILD_ENVIRONMENT, DEFAULT_MODEL, ensure_pretrained, read_labels
from models.registry import Registry, load_engine

PROJECT = Path(__file__).parents[3]
LIMITS = DecodingLimits(max_bytes=10_000_000, max_pixels=100_000_000)

BUILD = """
import sys
from pathlib import Path
from models.pretrained import ensure_pretrained
from models.registry import Registry
version = ensure_pretrained(Registry(Path(sys.argv[1])), lambda step, done: print(step, flush=True))
print(version, version.content_hash)
"""

KERAS_LOGITS = """
import sys
import numpy as np
from models.pretrained import build_pretrained_keras
pixels = np.load(sys.argv[1])
logits = build_pretrained_keras().predict_on_batch(((pixels - 127.0) / 128.0).astype(np.float32))
np.save(sys.argv[2], np.asarray(logits))
"""

MEMORY = """
import sys
from pathlib import Path
import numpy as np
from models.registry import Registry, load_engine
version = Registry(Path(sys.argv[1])).find(sys.argv[2])
load_engine(version).predict_logits(np.zeros((64, 224, 224, 3), np.uint8))
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


def start(code, *arguments):
    """Python in a process of its own, from an unrelated folder."""
    environment = {**os.environ, **BUILD_ENVIRONMENT, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd="/")


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def version(pretrained_registry):
    return pretrained_registry.find(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def engine(version):
    return load_engine(version)


@pytest.fixture(scope="module")
def photographs(version):
    """uint8 (20, 224, 224, 3) and the class indices (20,)."""
    paths = sorted((pretrained._package_folder("foolbox") / "data").glob("imagenet_*.jpg"))
    pixels = [decode(path.read_bytes(), version.preprocessing, LIMITS) for path in paths]
    return np.stack(pixels), np.array([int(path.stem.split("_")[2]) for path in paths])


def test_int8_passed_its_gate_and_is_the_default(version):
    assert version.engine_file == "int8.tflite"
    assert version.metrics["gate_images"] == 120
    assert version.metrics["int8_accuracy"] >= version.metrics["float32_accuracy"] - 0.005
    assert version.metrics["int8_agreement"] >= 0.97
    assert f"{version.metrics['int8_agreement']:.4g}" in version.read("card.md").decode()


def test_at_least_17_of_20_photographs_get_their_label(engine, photographs):
    pixels, class_indices = photographs

    assert (engine.predict_logits(pixels).argmax(axis=1) == class_indices).sum() >= 17


def test_labels_are_a_thousand_and_distinct(version):
    assert len(set(version.labels)) == 1000
    assert (version.labels[134], version.labels[517]) == ("crane bird", "construction crane")
    assert (version.labels[0], version.labels[283], version.labels[999]) == ("tench", "Persian cat", "toilet tissue")


def test_float32_file_gives_the_logits_of_keras(version, photographs, tmp_path):
    pixels = photographs[0][:4]
    np.save(tmp_path / "pixels.npy", pixels)
    finish(start(KERAS_LOGITS, tmp_path / "pixels.npy", tmp_path / "logits.npy"))

    engine = LitertEngine(version.read("float32.tflite"), version.preprocessing)

    assert np.abs(engine.predict_logits(pixels) - np.load(tmp_path / "logits.npy")).max() < 1e-4


@pytest.mark.parametrize("kind", ["float32.tflite", "int8.tflite", "fake"])
def test_every_engine_keeps_the_contract(kind, version, photographs):
    """Shapes, types, no images, and the same bits for an image alone, in a batch and in another order."""
    pixels = photographs[0][:5]
    engine = FakeEngine()
    if kind != "fake":
        engine = LitertEngine(version.read(kind), version.preprocessing)

    together = engine.predict_logits(pixels)

    assert together.dtype == np.float32 and together.shape[0] == 5
    assert engine.predict_logits(pixels[:0]).shape == (0, together.shape[1])
    assert np.array_equal(engine.predict_logits(pixels[::-1])[::-1], together)
    assert all(np.array_equal(engine.predict_logits(pixels[i : i + 1])[0], together[i]) for i in range(5))


def test_predictions_of_a_photograph_are_certain_enough(version, engine, photographs):
    shares = confidences(engine.predict_logits(photographs[0]), version.temperature)

    assert np.abs(shares.sum(axis=1) - 1).max() < 1e-5
    assert all(len(row) == 5 for row in top_k(shares, version.labels))
    assert 0.5 < shares.max(axis=1).mean() < 1


def test_engine_for_other_pixels_is_refused(version):
    with pytest.raises(ModelError, match="shapes"):
        LitertEngine(version.read("int8.tflite"), Preprocessing(size=128))


def test_loading_an_engine_says_nothing(version, capfd):
    load_engine(version)

    assert capfd.readouterr() == ("", "")


def test_process_with_an_engine_stays_below_250_mb(pretrained_registry):
    out, _ = finish(start(MEMORY, pretrained_registry.root, DEFAULT_MODEL))

    assert int(out) < 250


def test_second_call_builds_nothing(pretrained_registry):
    steps = []

    ensure_pretrained(pretrained_registry, lambda step, done: steps.append(step))

    assert steps == []


def test_builds_after_a_kill_and_at_the_same_time_give_one_version(tmp_path, version):
    killed = start(BUILD, tmp_path)
    assert killed.stdout.readline() == "loading TensorFlow\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    builders = [start(BUILD, tmp_path) for _ in range(2)]
    lines = [finish(builder)[0].splitlines() for builder in builders]

    # The same hash as in another folder: a build gives the same bytes every time.
    assert {each[-1] for each in lines} == {f"efficientnet_lite0:1 {version.content_hash}"}
    assert sum("publishing" in each for each in lines) == 1
    assert any(line.startswith("waiting for another command") for each in lines for line in each)
    assert sorted(os.listdir(tmp_path)) == [".efficientnet_lite0.lock", DEFAULT_MODEL]
    assert sorted(os.listdir(tmp_path / DEFAULT_MODEL)) == [".publish.lock", "1"]


def test_missing_package_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setitem(pretrained.TRAIN_PACKAGES, "no_such_package", "no-such-package")

    with pytest.raises(ModelError, match=re.escape("needs no-such-package: pip install 'tagmill[train]'")):
        ensure_pretrained(Registry(tmp_path / "models"), lambda step, done: None)


def test_failed_build_shows_what_went_wrong(tmp_path, monkeypatch):
    monkeypatch.setitem(BUILD_ENVIRONMENT, "KERAS_BACKEND", "no_such_backend")

    with pytest.raises(ModelError, match="no_such_backend"):
        ensure_pretrained(Registry(tmp_path), lambda step, done: None)
    assert os.listdir(tmp_path) == [".efficientnet_lite0.lock"]


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(pretrained, "WEIGHTS_SHA256", "0" * 64)

    with pytest.raises(ModelError, match="not the file of weights"):
        pretrained.build_pretrained_keras()


def test_labels_need_no_tensorflow():
    assert len(read_labels()) == 1000
