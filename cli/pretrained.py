"""The model version that a command asks for; the pretrained one is built when it is needed first."""

from base.errors import ModelError
from base.folders import make_private_folder
from base.settings import Settings
from cli.output import progress, say
from models.pretrained import DEFAULT_MODEL, ensure_pretrained
from models.registry import ModelVersion, Registry


def find_or_build(
    settings: Settings, registry: Registry, reference: str | None, *, quiet: bool = False
) -> ModelVersion:
    """Find a model version; None means the pretrained one.

    Raises:
        ModelError: there is no such version, or it cannot be built here.
    """
    if reference not in (None, DEFAULT_MODEL) or registry.has(DEFAULT_MODEL):
        return registry.find(reference or DEFAULT_MODEL)
    _make_home(settings)
    say(f"building the pretrained model {DEFAULT_MODEL} in {registry.address}, once; about a minute")
    with progress(quiet=quiet) as reporter:
        return ensure_pretrained(registry, reporter.update)


def _make_home(settings: Settings) -> None:
    """Have the home before what is in it; a registry elsewhere is for the users of workers, too."""
    if settings.models_workspace.is_relative_to(settings.home_path):
        try:
            make_private_folder(settings.home_path)
        except OSError as error:
            raise ModelError(
                f"cannot make {settings.home_path}: {error.strerror}. Name another folder with TAGMILL_HOME."
            ) from error


def check_model(registry: Registry, reference: str | None) -> None:
    """Refuse a model that does not exist, before anything is made for it; the pretrained one may still be built.

    Raises:
        ModelError: there is no such version.
    """
    if reference is not None and (reference != DEFAULT_MODEL or registry.has(DEFAULT_MODEL)):
        registry.find(reference)
