"""What the commands have in common: their parser, and kinds of arguments."""

from __future__ import annotations

import argparse

from PALNetLandmarksLib.align import UNITS


def command_parser(description: str) -> argparse.ArgumentParser:
    """A parser that shows the ``description`` as it is written and knows options by their whole names alone."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def at_least_one(text: str) -> int:
    """A whole number above zero."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of one or more")
    return number


def not_negative(text: str) -> float:
    """A number of zero or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of zero or more")
    return number


def add_unit(parser: argparse.ArgumentParser) -> None:
    """The option of commands that read scans of one unit."""
    parser.add_argument("--unit", choices=list(UNITS), help="unit of the scans; by default found out")
