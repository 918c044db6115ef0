"""The documents as the tests read them: their code blocks, tables and inline code."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    document: Path
    heading: str  #: the nearest above it
    lead: str  #: the line of text before it
    language: str
    text: str


def blocks(document: Path, language: str | None = None) -> list[Block]:
    """The fenced blocks of a language, or of any, in order."""
    return [block for block in _blocks(document) if language in (None, block.language)]


def tables(document: Path, heading: str) -> list[list[list[str]]]:
    """The tables below a heading, each as its rows of cells without the names of the columns."""
    section = re.split(r"^#+ ", document.read_text(), flags=re.MULTILINE)
    (text,) = [part for part in section if part.partition("\n")[0] == heading]
    found = re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)
    return [[_cells(line) for line in table.splitlines()[2:]] for table in found]


def inline_code(text: str) -> list[str]:
    """What stands between backticks outside fenced blocks, on one line each."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def _blocks(document: Path) -> Iterator[Block]:
    heading = lead = language = ""
    inside: list[str] | None = None
    for line in document.read_text().splitlines():
        if inside is not None:
            if line == "```":
                yield Block(document, heading, lead, language, "\n".join(inside))
                inside = None
            else:
                inside.append(line)
        elif line.startswith("```"):
            inside, language = [], line[3:]
        elif line.startswith("#"):
            heading, lead = line.lstrip("# "), ""
        elif line:
            lead = line
    assert inside is None, f"{document.name}: a block that does not end"


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
