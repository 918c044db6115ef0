"""Every command in README.md, CONTRIBUTING.md and docs/ runs, or stands below with the reason why it does not."""

import os
import re
import secrets
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from enum import EnumType
from pathlib import Path

import psycopg
import pytest
import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from base.settings import settings_with_origins
from broker.app import QUEUE, RUNS_QUEUE
from cli.main import app
from models.registry import Registry
from tests.acceptance.conftest import PATIENCE_SECONDS
from tests.compose import read_services
from tests.documents import DOCUMENTS, ROOT, Block, blocks, inline_code, tables
from tests.processes import other_variables
from tests.samples import make_dataset, make_jpeg
from tests.servers import Valkey, valkey_server

README, OPERATIONS = ROOT / "README.md", ROOT / "docs" / "operations.md"

#: Programs that a document may tell people to run; what begins with one of them is a command.
PROGRAMS = {
    *("tagmill", ".venv/bin/tagmill", ".venv/bin/python", "python", "python3", "pip", "/opt/tagmill/bin/pip", "uv"),
    *(
        "make",
        ".ci/run",
        "sh",
        "cd",
        "export",
        "docker",
        "kubectl",
        "systemctl",
        "curl",
        "git",
        "cat",
        "cp",
        "mkdir",
        "umask",
    ),
    *("sqlite3", "psql", "createdb", "createuser", "pg_dump", "pg_restore", "redis-cli", "valkey-cli", "LLEN"),
}
#: Commands that run until they are stopped.
PARTS = ("worker", "producer", "beat")
#: Those that are run here.
RUN = {"tagmill", "cat", "umask"}
#: Commands that are not run here, and why.
NOT_RUN = {
    "cd tagmill": "the checkout, in which the tests run",
    "python3 -m venv /opt/tagmill": "requirements/install.sh makes an environment so, and `make install` runs it",
    "/opt/tagmill/bin/pip install --no-deps --require-hashes -r requirements/worker.txt": "the same",
    "/opt/tagmill/bin/pip install --no-deps .": "the same, and it installs over the network for a minute",
    "python3 -m venv ~/tagmill": "the same",
    "~/tagmill/bin/pip install '.[train]'": "it installs 2.5 GB over the network; test_wheel looks at what it installs",
    "pip install 'tagmill[train]'": "`make install` installs the same from the lock",
    "pip install 'tagmill[parquet]'": "tests/unit/cli/test_parquet.py sees it told",
    "docker inspect": "what docs/decisions.md says that others may do",
    ".ci/run": "it runs these tests",
    "cp": "how a file came about; test_plan.py makes such a one",
    "cp -p": "the same",
    "pg_dump": "PostgreSQL's own; which way it is called is left to the reader",
    "sqlite3 tagmill.db \"VACUUM INTO 'copy.db'\"": "test_documented_copy_of_sqlite_is_complete runs its statement",
    "LLEN tagmill.classify": "test_documented_queue_is_the_one_of_the_broker compares the name",
    "LLEN tagmill.runs": "the same",
    "tagmill demo": "the address that docs/decisions.md decides against",
}
#: Fenced blocks that hold no commands for a shell: drawings, and what other tests take.
OTHER_LANGUAGES = {"text", "sql", "toml"}

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@dataclass(frozen=True)
class Sandbox:
    """A folder with all that the documents name: photographs, a model, a finished run, servers."""

    folder: Path
    models: Path
    broker: Valkey
    database: str  #: of the role that owns the tables
    reader: str  #: of the role that may only read

    def here(self, text: str) -> str:
        """A command with our places in those of the documents."""
        for pattern, ours in (
            (r"(\.venv|~/tagmill)/bin/tagmill\b", "tagmill"),
            (r"postgresql://tagmill(:\S*)?@db\.example/tagmill\b", self.database),
            (r"postgresql://tagmill_reader(:\S*)?@db\.example/tagmill\b", self.reader),
            (r"redis://(:\S*)?@broker\.example(:6379)?/0\b", self.broker.url),
            (r"/mnt/photos\b", str(self.folder / "photos")),
            (r"/mnt/models\b", str(self.models)),
            (r"\btagmill cancel 7\b", "tagmill cancel 2"),  # The one that is not finished.
            (r"\btagmill publish 7\b", "tagmill publish 3"),  # The one that was held back.
            (r"\b(tagmill \w+) 7\b", r"\1 1"),
        ):
            text = re.sub(pattern, lambda match, ours=ours: match.expand(ours), text)
        return text

    def start(self, command: str) -> "subprocess.Popen[str]":
        """Start a command of a shell, which the command itself takes the place of where it is one of PARTS."""
        scripts = str(Path(sys.executable).parent)  # Where the console script is.
        return subprocess.Popen(
            ["sh", "-c", re.sub(rf"tagmill ({'|'.join(PARTS)})\b", r"exec tagmill \1", command)],
            cwd=self.folder,
            env=other_variables()
            | {"HOME": str(self.folder), "TAGMILL_MODELS_URL": str(self.models)}
            | {"PATH": os.pathsep.join([scripts, os.environ["PATH"]])},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str) -> None:
        """Run a command to its end, which must be good."""
        process = self.start(command)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, f"{command!r} ended with {process.returncode}:\n{out}\n{err}"

    @contextmanager
    def part(self, command: str) -> Iterator[None]:
        """Start a part of the system, wait until it says that it is ready, and stop it as a service manager does."""
        process = self.start(command)
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "_ready" in line:
                    break
            yield
        finally:
            process.terminate()
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, f"{command!r} ended with {process.returncode}:\n{out}\n{err}"


@pytest.fixture(scope="module")
def sandbox(
    tmp_path_factory: pytest.TempPathFactory,
    pretrained_registry: Registry,
    foolbox_photos: list[Path],
    postgres: str,
) -> Iterator[Sandbox]:
    """The documents' servers and folders, with what docs/operations.md makes on them before anything runs."""
    folder = tmp_path_factory.mktemp("sandbox")
    for name in ("photos", "Pictures"):
        (folder / name).mkdir()
        for photo in foolbox_photos[:3]:
            shutil.copy(photo, folder / name)
    (folder / "Pictures" / "broken.jpg").write_bytes(make_jpeg()[:200])
    shutil.copy(foolbox_photos[0], folder / "photo.jpg")
    with (
        valkey_server(tmp_path_factory.mktemp("valkey")) as broker,
        documented_roles(postgres) as (database, reader),
    ):
        # A copy: what the documents train and import is nobody else's.
        shutil.copytree(pretrained_registry.workspace, folder / "models")
        box = Sandbox(folder, folder / "models", broker, database, reader)
        box.run("tagmill run ~/Pictures")
        _add_other_runs(folder / "tagmill-data" / "tagmill.db")
        make_dataset(folder / "furniture", 6)
        make_dataset(folder / "more-furniture", 2, first=500)
        for seed in (0, 1):
            box.run(f"tagmill train ./furniture --name furniture --architecture small_cnn --epochs 1 --seed {seed}")
            box.run("tagmill run ./photos --model furniture")
        for name in ("model.keras", "labels.txt"):
            shutil.copy(folder / "models" / "furniture" / "1" / name, folder)
        yield box


@contextmanager
def documented_roles(postgres: str) -> Iterator[tuple[str, str]]:
    """Make the roles and the database of docs/operations.md, with names of our own; yields the two addresses."""
    (block,) = blocks(OPERATIONS, "sql")
    mark = secrets.token_hex(4)
    made = re.sub(r"\b(tagmill(_reader)?)\b", rf"\1_{mark}", block.text).replace("…", "secret")
    server = postgres.rpartition("@")[2].rpartition("/")[0]
    with psycopg.connect(postgres, autocommit=True) as connection:
        for statement in filter(None, map(str.strip, made.split(";"))):
            connection.execute(statement.encode())
        try:
            yield tuple(  # type: ignore[misc]
                f"postgresql://{role}_{mark}:secret@{server}/tagmill_{mark}" for role in ("tagmill", "tagmill_reader")
            )
        finally:
            for name in (
                f"DATABASE tagmill_{mark} WITH (FORCE)",
                f"ROLE tagmill_{mark}",
                f"ROLE tagmill_reader_{mark}",
            ):
                connection.execute(f"DROP {name}".encode())


def _add_other_runs(path: Path) -> None:
    """What an interrupted command leaves, without interrupting one, and what a night that went wrong does."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO runs (source, include, model_version_id, status, started_at) "
            "SELECT 'file:///elsewhere', include, model_version_id, 'listing', started_at FROM runs"
        )
        connection.execute(
            "INSERT INTO runs (source, include, model_version_id, status, started_at, finished_at, staged, held_back) "
            "SELECT 'file:///spoilt', include, model_version_id, 'completed', started_at, started_at, true, 'empty' "
            "FROM runs WHERE id = 1"
        )


def root() -> TyperGroup:
    """`tagmill` itself."""
    found = typer.main.get_command(app)
    assert isinstance(found, TyperGroup)
    return found


def commands() -> dict[str, TyperCommand]:
    """Every command by the words that call it: `run`, `models list`."""
    found: dict[str, TyperCommand] = {}
    for name, command in root().commands.items():
        inner = {f"{name} {word}": one for word, one in getattr(command, "commands", {}).items()}
        found |= inner or {name: command}
    return found


def options(command: TyperCommand | TyperGroup) -> set[str]:
    """The names of its options, `--help` left out."""
    named = [parameter for parameter in command.params if isinstance(parameter, TyperOption)]
    return {name for one in named for name in [*one.opts, *one.secondary_opts] if name.startswith("--")} - {"--help"}


def find_command(words: list[str]) -> str | None:
    """The command that words after `tagmill` call."""
    names = [" ".join(words[:length]) for length in (2, 1)]
    return next((name for name in names if name in commands()), None)


def examples(command: TyperCommand) -> list[str]:
    """What the help of a command gives as examples."""
    paragraphs = re.findall(r"^Examples?: (.+?)(?:\n\n|\Z)", command.help or "", flags=re.MULTILINE | re.DOTALL)
    return [" ".join(found.split()) for found in paragraphs]


def lines(block: Block) -> list[str]:
    """The commands of a block, each without its comment; what is written into a file belongs to its command."""
    found: list[str] = []
    end = ""
    for line in block.text.replace("\\\n", " ").splitlines():
        if end:
            found[-1] += f"\n{line}"
            end = "" if line == end else end
        elif command := " ".join(re.sub(r"(?:^|\s+)#\s.*", "", line).split()):
            found.append(command)
            end = command.partition("<<")[2]
    return found


def is_covered(command: str) -> bool:
    """Whether a command need not be run: what it names exists, or a reason stands above."""
    if command in NOT_RUN:
        return True
    if "&&" in command:
        return all(is_covered(part.strip()) for part in command.split("&&"))
    words = _words(command)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        return {word for word in words[1:] if "=" not in word} <= set(targets)
    if words[:3] == [".venv/bin/python", "-m", "pytest"]:
        return (ROOT / words[3]).exists()
    return words[:2] == ["docker", "compose"] and _is_covered_by_compose(words[2], words[3:])


def _is_covered_by_compose(verb: str, words: list[str]) -> bool:
    """No container engine runs here, and test_compose.py starts what each service would; so names are looked at."""
    services = read_services({"POSTGRES_PASSWORD": "x", "REDIS_PASSWORD": "x", "PHOTOS": "/"})
    named = [word.partition("=")[0] for word in words if not word.startswith("-")]
    if verb == "run":
        assert len(named) == 1 or find_command(named[1:]), f"no command {named[1:]}"
    if verb in ("run", "exec"):
        named = named[:1]
    return verb in ("build", "down", "exec", "restart", "run", "stop", "up") and set(named) <= set(services)


def _words(command: str) -> list[str]:
    """Of a command, from its program on: without the variables that are set for it."""
    words = shlex.split(command, comments=True)
    return words[next(index for index, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)) :]


def _readme_rows() -> list[list[str]]:
    """Of the table of commands."""
    return tables(README, "Commands")[0]


SHELL_BLOCKS = [block for document in DOCUMENTS for block in blocks(document, "sh")]
INLINE = [
    (document.name, code)
    for document in DOCUMENTS
    for code in dict.fromkeys(inline_code(document.read_text()))
    if code.partition(" ")[0] in PROGRAMS or _OPTION.match(code)
]


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=lambda block: f"{block.document.name}-{block.heading}")
def test_commands_of_a_block_run_in_order(sandbox: Sandbox, block: Block) -> None:
    exports = ""
    with ExitStack() as stack:
        for line in lines(block):
            command = exports + sandbox.here(line)
            if line.startswith("export "):
                exports += f"{sandbox.here(line)}; "
            elif re.search(rf"tagmill ({'|'.join(PARTS)})\b", line):
                stack.enter_context(sandbox.part(command))
            elif _words(sandbox.here(line))[0] in RUN:
                sandbox.run(command)
            else:
                assert is_covered(line), f"{block.document.name}: {line!r} is neither run nor in NOT_RUN"


@pytest.mark.parametrize("name", commands())
def test_example_of_a_command_runs(sandbox: Sandbox, name: str) -> None:
    found = examples(commands()[name])

    assert found, f"'tagmill {name} --help' has no example"
    for example in found:
        command = sandbox.here(example)
        assert f"tagmill {name}" in example
        if name in PARTS:
            with sandbox.part(command):
                continue
        sandbox.run(command)


def test_readme_table_names_every_command() -> None:
    named = [find_command(code.split()[1:]) for row in _readme_rows() for code in inline_code(row[0])]

    assert sorted(filter(None, named)) == sorted(commands())
    assert None not in named


@pytest.mark.parametrize("row", _readme_rows(), ids=lambda row: row[0])
def test_readme_table_names_every_option(row: list[str]) -> None:
    named = [find_command(code.split()[1:]) for code in inline_code(row[0])]
    exist = [options(commands()[name]) for name in named if name is not None]

    assert set(_OPTION.findall(" ".join(row))) == set().union(*exist)


def test_readme_names_every_option_of_tagmill_itself() -> None:
    assert options(root()) <= set(_OPTION.findall(README.read_text()))


@pytest.mark.parametrize("row", _readme_rows(), ids=lambda row: row[0])
def test_readme_table_names_every_choice(row: list[str]) -> None:
    """Written as `--format table|csv`."""
    written = dict(re.findall(r"(--[a-z-]+) (\w+(?:\|\w+)+)", " ".join(row)))
    (name, *_) = filter(None, (find_command(code.split()[1:]) for code in inline_code(row[0])))
    kinds = {parameter.opts[0]: parameter.type_descriptor.annotation for parameter in commands()[name].params}
    choices = {option: "|".join(kind) for option, kind in kinds.items() if isinstance(kind, EnumType)}

    assert written == choices


@pytest.mark.parametrize(("document", "code"), INLINE, ids=lambda value: value[:40])
def test_command_or_option_in_a_sentence_exists(document: str, code: str) -> None:
    words = _words(code)
    if words[0].startswith("--"):
        known = [options(command) for command in (*commands().values(), root())]
        assert set(_OPTION.findall(code)) <= set().union({"--help"}, *known), f"{document}: {code}"
    elif words[0].endswith("tagmill") and code not in NOT_RUN:
        name = find_command(words[1:])
        names_nothing_else = len(words) == 1 or words[1].startswith("--") or words[1:] in [[g] for g in root().commands]
        assert name is not None or names_nothing_else, f"{document}: {code}"
        assert set(_OPTION.findall(code)) <= options(commands()[name] if name else root())
    else:
        assert is_covered(code), f"{document}: {code!r} is not in NOT_RUN"


def test_no_command_hides_in_a_block_of_another_language() -> None:
    languages = {block.language for document in DOCUMENTS for block in blocks(document)}

    assert languages - {"sh"} <= OTHER_LANGUAGES


@pytest.mark.parametrize(
    "block",
    [block for document in DOCUMENTS for block in blocks(document, "toml")],
    ids=lambda block: f"{block.document.name}-{block.heading}",
)
def test_documented_settings_file_is_read(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in re.findall(r'"/run/secrets/(.*?)"', block.text):
        (tmp_path / name).write_text("postgresql://tagmill@db.example/tagmill\n")
    (tmp_path / "tagmill.toml").write_text(block.text.replace("/run/secrets", str(tmp_path)))
    monkeypatch.setenv("TAGMILL_CONFIG", str(tmp_path / "tagmill.toml"))

    _, origins = settings_with_origins()

    above, schedules, _ = block.text.partition("[[schedule]]")
    written = len(re.findall(r"^\w+ =", above, re.MULTILINE)) + bool(schedules)
    assert sum(origin != "default" for origin in origins.values()) == written


def test_reasons_for_not_running_are_still_needed() -> None:
    written = {line for block in SHELL_BLOCKS for line in lines(block)} | {code for _, code in INLINE}

    assert set(NOT_RUN) <= written


def test_documented_copy_of_sqlite_is_complete(sandbox: Sandbox, tmp_path: Path) -> None:
    (code,) = [code for _, code in INLINE if code.startswith("sqlite3 ")]
    _, name, statement = shlex.split(code)
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(sandbox.folder / "tagmill-data" / name)) as connection:
        connection.execute(statement.replace("copy.db", str(copy)))

    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT listed FROM run_summary WHERE run_id = 1").fetchone() == (4,)


def test_documented_queue_is_the_one_of_the_broker() -> None:
    assert {code for _, code in INLINE if code.startswith("LLEN")} == {f"LLEN {QUEUE}", f"LLEN {RUNS_QUEUE}"}
