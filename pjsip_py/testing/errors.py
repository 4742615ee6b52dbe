# SPDX-License-Identifier: GPL-3.0-or-later
"""What the embedded registrar raises."""

from __future__ import annotations


class RegistrarError(Exception):
    """The registrar itself failed: a callback raised, or its thread does not answer."""


class UnmatchedRequest(Exception):
    """A registrar that answers nothing by itself got a request that no rule is for."""


class UnreachableRule(ValueError):
    """An earlier rule without an end takes everything that this one is for."""
