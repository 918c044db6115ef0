"""The model card: what a person wants to know before trusting a model version."""

from collections.abc import Iterable, Mapping
from typing import Any


def make_card(facts: Mapping[str, Any], description: str, other_files: Iterable[str]) -> str:
    """The card as Markdown.

    Args:
        facts: what version.json says, all but its files.
        description: Markdown, how the model came about.
        other_files: what is kept with the version beside its engines and labels.
    """
    preprocessing = facts["preprocessing"]
    size = preprocessing["size"]
    rows = {
        "content hash": facts["content_hash"],
        "engine file": facts["engine_file"],
        "pixels": f"{size} x {size}, smaller with {preprocessing['interpolation']}, larger with bicubic",
        "centre square": f"{preprocessing['crop']:g} of the shorter side",
        "normalisation": f"(pixel - {preprocessing['mean']:g}) / {preprocessing['scale']:g}",
        "temperature": f"{facts['temperature']:g}",
        "created": facts["created_at"],
    }
    # What is nested, such as figures for each label, stands in the files beside the card.
    rows |= {name.replace("_", " "): value for name, value in facts["metrics"].items() if _is_scalar(value)}
    if "target_precision" in facts:
        rows["target precision"] = facts["target_precision"]
    rows |= facts["built_with"]
    parts = [f"# {facts['name']} version {facts['version']}", description.strip(), _table(("fact", "value"), rows)]
    if "target_precision" in facts:
        parts += [
            "## Thresholds",
            "An answer that is less sure than its label's threshold needs review; with none, each of its answers does.",
            _table(
                ("label", "threshold"),
                {label: "none" if one is None else one for label, one in facts["thresholds"].items()},
            ),
        ]
    if files := sorted(other_files):
        parts += ["## Files", "\n".join(f"- [{file}]({file})" for file in files)]
    return "\n\n".join(parts) + "\n"


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _table(columns: tuple[str, str], rows: Mapping[str, object]) -> str:
    lines = [columns, ("---", "---"), *((_cell(name), _cell(value)) for name, value in rows.items())]
    return "\n".join(f"| {left} | {right} |" for left, right in lines)


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
