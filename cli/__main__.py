"""`tagmill`, and `python -m cli`."""

import atexit
import gc
import signal


def main() -> None:
    """Run one command and exit."""
    # Until everything is imported there is nothing to end in good order: Ctrl-C just ends us, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # What is imported stays: looking through it for garbage, now or at exit, costs a tenth of a second and finds none.
    gc.disable()
    atexit.register(gc.freeze)
    from cli import main as commands

    gc.freeze()
    gc.enable()

    commands.main()


if __name__ == "__main__":
    main()
