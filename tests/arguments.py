"""Numbers on the command lines of `bench` and of the programs in `tests`."""

import argparse
import math
from collections.abc import Callable


def whole_number(least: int) -> Callable[[str], int]:
    """What reads an argument that has to be so large."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"not {text!r}, but a whole number of at least {least}")
        return number

    return read


def some_seconds(text: str) -> float:
    """Read an argument that says how long something takes."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"not {text!r}, but a number of seconds above 0")
    return number
