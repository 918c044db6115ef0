"""`tagmill`, and `python -m cli`."""

import signal


def main() -> None:
    """Run one command and exit."""
    # Until everything is imported there is nothing to end in good order: Ctrl-C just ends us, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cli import main as commands

    commands.main()


if __name__ == "__main__":
    main()
