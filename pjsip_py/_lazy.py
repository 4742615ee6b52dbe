# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made when it is first used: regular expressions, loggers."""

from __future__ import annotations

import sys

from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    import re
    from typing import Any


class _Pattern:
    def __init__(self, text: str) -> None:
        self._text = text

    def __getattr__(self, name: str) -> Any:
        import re

        value = getattr(re.compile(self._text), name)
        setattr(self, name, value)  # found at once from now on
        return value


class _Logger:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if "logging" not in sys.modules:  # then there is nobody to read it
            return _nothing
        import logging

        logger = logging.getLogger(self._name)
        # A library does not print: without handlers of the program's own, it goes nowhere.
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())
        value = getattr(logger, name)
        setattr(self, name, value)
        return value


def _nothing(*_args: object, **_options: object) -> None:
    pass


def pattern(text: str) -> re.Pattern[str]:
    """``re.compile(text)``, later."""
    made: Any = _Pattern(text)
    return made  # type: ignore[no-any-return]


def logger(name: str) -> logging.Logger:
    """``logging.getLogger(name)``, when the program has logging at all."""
    made: Any = _Logger(name)
    return made  # type: ignore[no-any-return]
