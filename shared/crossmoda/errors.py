"""Faults in what the user gave: one clear message, no traceback, a non-zero exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class InputError(ValueError):
    """A fault in the user's input; the message names the file and the mend, in one line."""


def exit_on_input_error(function: Callable[P, R]) -> Callable[P, R]:
    """Make an entry point print an `InputError` as one line on stderr and leave with exit code 2.

    `SystemExit` is also what a bundle config needs: MONAI wraps every `Exception` that a `$` expression raises
    in a chain of `RuntimeError`s, which would bury the message; `SystemExit` passes through.

    Args:
        function: the entry point, e.g. a script's `main` or the first line of a config's `initialize`.

    Returns:
        The wrapped function; it raises `SystemExit(2)` instead of `InputError`.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapped
