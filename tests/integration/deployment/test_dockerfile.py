"""The Dockerfile, as far as it can be followed without a container engine."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.compose import PROJECT

DOCKERFILE = (PROJECT / "Dockerfile").read_text().replace("\\\n", " ")
STAGES = dict(re.findall(r"^FROM \S+ AS ([\w-]+)\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))
CONTEXT = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as the stage `wheel` builds it, from what .dockerignore lets through."""
    context, made = tmp_path_factory.mktemp("context"), tmp_path_factory.mktemp("wheel")
    for pattern in (line for line in CONTEXT if line.startswith("!")):
        for path in PROJECT.glob(pattern[1:]):
            target = context / path.relative_to(PROJECT)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, target)
    (command,) = re.findall(r"^RUN (pip wheel .*) --wheel-dir /wheel \.$", DOCKERFILE, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-m", *command.split(), "--quiet", "--wheel-dir", made, "."],
        cwd=context,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = made.glob("*.whl")
    return path


def run_wheel(wheel: Path, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """`tagmill` from the wheel, with its packages from our .venv."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "cli", *words],
        cwd=folder,
        env={"PATH": os.defpath, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
    )


def test_dockerfile_pleases_its_linter() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")

    done = subprocess.run([hadolint, "--no-color", PROJECT / "Dockerfile"], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_build_sees_nothing_that_is_not_named() -> None:
    assert CONTEXT[0] == "*"  # So no .env, database or .git gets into an image.


def test_wheel_has_every_file_of_every_package(wheel: Path) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    paths = [path for name in packages for path in (PROJECT / name).rglob("*") if "__pycache__" not in path.parts]

    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert files == {path.relative_to(PROJECT).as_posix() for path in paths if path.is_file()}


def test_wheel_runs_and_makes_a_database(wheel: Path, tmp_path: Path) -> None:
    unpacked, folder = tmp_path / "unpacked", tmp_path / "folder"
    folder.mkdir()
    zipfile.ZipFile(wheel).extractall(unpacked)

    assert run_wheel(unpacked, folder, "--version").stdout == f"tagmill {wheel.name.split('-')[1]}\n"
    assert run_wheel(unpacked, folder, "db", "upgrade").returncode == 0
    assert (folder / "tagmill-data" / "tagmill.db").exists()


def test_everything_is_installed_from_hashed_locks() -> None:
    installs = re.findall(r"pip (?:--python \S+ )?install (.*)$", DOCKERFILE, re.MULTILINE)

    locked = [re.search(r"--require-hashes --only-binary :all: -r /(\w+)\.txt$", install) for install in installs]
    assert [found[1] for found in locked if found] == ["build", "worker", "train"]
    # What is left is the wheel that we built.
    assert {install for install, found in zip(installs, locked, strict=True) if not found} == {
        "--no-deps --no-index /wheel/*.whl"
    }
    for name in ("build", "worker", "train"):
        assert "--hash=sha256:" in (PROJECT / "requirements" / f"{name}.txt").read_text()


def test_worker_image_has_no_tensorflow() -> None:
    assert "--from=worker-packages" in STAGES["worker"] and "models-packages" not in STAGES["worker"]
    assert "train.txt" not in STAGES["worker-packages"]
    assert "tensorflow" not in (PROJECT / "requirements" / "worker.txt").read_text()


def test_images_do_not_run_as_root_or_shell() -> None:
    for name in ("worker", "models"):
        # A shell between Docker and us would keep the signals for itself.
        assert 'USER 10001:10001\nENTRYPOINT ["tagmill"]\nCMD [' in STAGES[name]


def test_base_image_has_an_exact_version() -> None:
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) - STAGES.keys()

    assert [re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) is not None for base in bases] == [True]
