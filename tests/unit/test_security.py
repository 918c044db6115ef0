"""What holds wherever in the code it is: no shell, nothing that was read becomes code, no secret in what is told."""

import ast
import io
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from base.buckets import BucketAccess
from base.errors import AppError
from base.logs import configure_logs
from base.settings import load_settings
from producer.addresses import address_to_uri
from producer.sources import open_source
from results.session import Database, parse_database_url

ROOT = Path(__file__).parents[2]
OURS = ("base", "results", "models", "broker", "worker", "producer", "cli", "migrations", "bench")
MODULES = [ROOT / "demo.py", *sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))]

# Each runs what it is given, or reads what may be told to run something.
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"),
    *("subprocess.getstatusoutput", "pty.spawn", "asyncio.create_subprocess_shell", "commands.getoutput"),
    *("pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open", "dill.load", "joblib.load"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "jsonpickle.decode", "torch.load"),
    *("tempfile.mktemp", "ssl._create_unverified_context"),
}
STARTS = ("subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call", "subprocess.check_output")
# Named in a call, these values open what is closed otherwise.
OPENED = {("shell", True), ("allow_pickle", True), ("safe_mode", False), ("verify", False), ("check_hostname", False)}
# Modules that would bring what CALLS does; the one that has a use for it names all that it lets in.
IMPORTS = {"pickle", "marshal", "shelve", "dill", "joblib", "yaml", "torch", "commands", "pty"}
LET_IN = {("models/torch_weights.py", "pickle")}


def dangers(code: str, name: str = "x.py") -> Iterator[str]:
    """What a module does of all that."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for module in {one.partition(".")[0] for one in names} & IMPORTS:
                if (name, module) not in LET_IN:
                    yield f"{name}:{node.lineno} imports {module}"
            if isinstance(node, ast.ImportFrom) and node.module in ("os", "subprocess"):
                # Under another name the rest of this file would not find it.
                yield from (f"{name}:{node.lineno} takes {alias.name} out of {node.module}" for alias in node.names)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS:
                yield f"{name}:{node.lineno} calls {called}"
            if called in STARTS and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr | ast.BinOp):
                yield f"{name}:{node.lineno} starts a line of text"
            if called.endswith("load_model") and "safe_mode" not in {word.arg for word in node.keywords}:
                yield f"{name}:{node.lineno} loads a model, and does not say in safe mode"
            for word in node.keywords:
                if isinstance(word.value, ast.Constant) and (word.arg, word.value.value) in OPENED:
                    yield f"{name}:{node.lineno} has {word.arg}={word.value.value}"


def test_nothing_of_ours_starts_a_shell_or_runs_what_it_read() -> None:
    found = [danger for path in MODULES for danger in dangers(path.read_text(), str(path.relative_to(ROOT)))]

    assert found == []
    assert len(MODULES) > 100


@pytest.mark.parametrize(
    "code",
    [
        "subprocess.run(['ls'], shell=True)",
        "subprocess.run('ls')",
        "subprocess.Popen(f'ls {folder}')",
        "os.system('ls')",
        "os.popen(line)",
        "from os import system",
        "from subprocess import Popen as start",
        "import os, pickle",
        "from yaml import load",
        "eval(text)",
        "exec(code)",
        "np.load(path, allow_pickle=True)",
        "keras.saving.load_model(path, safe_mode=False)",
        "keras.models.load_model(path)",
    ],
)
def test_each_way_to_do_so_would_be_found(code: str) -> None:
    assert list(dangers(code))


SECRET = "hunter2"

# Each is where people put what they should not: somebody's password, a signature, a token.
ADDRESSES = [
    "https://me:hunter2@shop.example/photos",
    "https://shop.example/photos?X-Amz-Signature=hunter2",
    "ftp://me:hunter2@shop.example/photos/a.jpg",
    "postgresql://me:hunter2@db.example/tagmill",
    "s3://key:hunter2@bucket/photos",
    "az://container/photos?sig=hunter2",
    "https://shop.example/all.csv?token=hunter2&x=.csv",
    "s3://key:hunter2@bucket/all.csv",
    "http://a..b/photo.jpg?token=hunter2",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_source_that_is_refused_is_told_without_its_secret(address: str) -> None:
    for options in ({}, {"key": "sku"}, {"include": ["*.jpg"]}):
        with pytest.raises(AppError) as raised:
            open_source(address, access=BucketAccess(), **options)

        assert SECRET not in str(raised.value)
        assert "://" in str(raised.value)


# What a URL asks for is part of the image's name.
@pytest.mark.parametrize("address", [one for one in ADDRESSES if not one.startswith("https://shop")])
def test_address_in_a_manifest_is_refused_without_its_secret(address: str) -> None:
    with pytest.raises(AppError) as raised:
        address_to_uri(address, "file:///photos/")

    assert SECRET not in str(raised.value)


def test_options_of_a_database_are_not_told() -> None:
    address = "postgresql://me:hunter2@db.example/tagmill?password=hunter2&sslpassword=hunter2"
    db = Database(parse_database_url(address, "TAGMILL_DATABASE_URL"))

    assert str(db) == "database postgresql://me:***@db.example/tagmill"
    db.close()


@pytest.mark.parametrize("name", ["TAGMILL_DATABASE_URL", "TAGMILL_READER_URL", "TAGMILL_BROKER_URL"])
def test_settings_that_are_wrong_are_told_without_secrets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGMILL_IMAGE_SECONDS", "50000")
    monkeypatch.setenv(name, "redis://:hunter2@h")  # At the end: of much, the middle would be left out.

    with pytest.raises(AppError, match="TAGMILL_IMAGE_SECONDS=50000") as raised:
        load_settings()

    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_address_in_the_place_of_its_file_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGMILL_BROKER_URL_FILE", "redis://:hunter2@broker.example/0")

    with pytest.raises(AppError, match=r"names 'redis://\*\*\*@broker.example/0'") as raised:
        load_settings()

    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("json_lines", [False, True])
def test_traceback_in_the_logs_shows_no_values(json_lines: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    before = structlog.get_config()
    configure_logs(json_lines=json_lines)
    try:
        fail(SECRET)
    except ZeroDivisionError:
        structlog.get_logger().exception("run_failed")
    finally:
        structlog.configure(**before)

    assert "ZeroDivisionError" in told.getvalue()
    assert SECRET not in told.getvalue()


def fail(address: str) -> None:
    raise ZeroDivisionError(len(address))
