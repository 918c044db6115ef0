"""Writes docs/settings.md from the settings themselves; `make settings` runs it."""

from pydantic.fields import FieldInfo

from base.settings import CONFIG_FILE, CONFIG_VARIABLE, SECRET_FILES, Settings, variable

_INTRODUCTION = f"""# Settings

Made by `make settings` from `base/settings.py`.

A setting is a variable of the environment, or a line of `{CONFIG_FILE}`:

```toml
# {CONFIG_FILE}
home = "data"           # From this file's folder, as every relative path in it.
images_per_batch = 128
database_url_file = "/run/secrets/tagmill_database_url"
```

`tagmill --config FILE …` names the file, or else `{CONFIG_VARIABLE}`; without both it is `{CONFIG_FILE}` in the current
folder, where there is one. A variable outranks the file, and the file the default. A value that is empty counts as not
set. `tagmill doctor` shows each setting with where it comes from, and hides the secrets.

For the addresses that hold a password there is another name each, which ends with `_FILE` (`_file` in the file): it
names a file with the address in it, as Docker and Kubernetes give secrets. Of the two only one may be set in the same
place.

A name that is none of these is refused, and the nearest one told. Left alone are the variables that Kubernetes sets for
a Service named `tagmill` or `tagmill-…`, such as `TAGMILL_SERVICE_HOST` and `TAGMILL_PORT_6379_TCP_ADDR`.

| in `{CONFIG_FILE}` | variable | default | bounds | what it is |
| --- | --- | --- | --- | --- |
"""


def as_markdown() -> str:
    """docs/settings.md."""
    return _INTRODUCTION + "".join(_row(name, field) for name, field in Settings.model_fields.items())


def _row(name: str, field: FieldInfo) -> str:
    keys = [name, *(key for key, secret in SECRET_FILES.items() if secret == name)]
    default = "" if field.default in (None, ()) else f"`{field.default}`"
    cells = [
        " or ".join(f"`{key}`" for key in keys),
        " or ".join(f"`{variable(key)}`" for key in keys),
        default.lower() if field.annotation is bool else default,
        ", ".join(_bounds(field)),
        str(field.description),
    ]
    return f"| {' | '.join(cells)} |\n"


def _bounds(field: FieldInfo) -> list[str]:
    words = {"gt": "above", "ge": "at least", "le": "at most"}
    return [
        f"{word} {getattr(bound, name):,}"
        for name, word in words.items()
        for bound in field.metadata
        if hasattr(bound, name)
    ]


if __name__ == "__main__":
    print(as_markdown(), end="")
