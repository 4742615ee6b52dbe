# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that several commands have in common, and what is made of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

import click

import pjsip_py as pjsip
from pjsip_py.uri import SipUri

PASSWORD_VARIABLE = "PJSIP_PY_PASSWORD"

F = TypeVar("F", bound=Callable[..., Any])


def password_option(function: F) -> F:
    return click.option(
        "--password-file",
        type=click.File("r", lazy=False),
        metavar="FILE",
        help="The password is the first line of this file; '-' is standard input.",
    )(function)


def connection_options(function: F) -> F:
    """``--expires``, ``--timeout``, ``--transport`` and the settings of TLS."""
    for option in reversed(
        (
            click.option("--expires", type=int, default=300, show_default=True, metavar="SECONDS"),
            click.option(
                "--timeout",
                type=float,
                metavar="SECONDS",
                help="How long a request may take. Default: 32 (SIP timer F).",
            ),
            click.option(
                "--transport",
                type=click.Choice(["udp", "tcp", "tls"]),
                help="Default: what the URI asks for, else UDP.",
            ),
            click.option(
                "--ca-file", metavar="PEM", help="Trust these CAs. Default: the system's."
            ),
            click.option(
                "--cert-file", metavar="PEM", help="Our certificate, for a registrar that asks."
            ),
            click.option("--key-file", metavar="PEM", help="Its key."),
            click.option(
                "--server-name", metavar="NAME", help="Whose certificate it must be; the SNI."
            ),
            click.option(
                "--keylog-file", metavar="PATH", help="Append TLS secrets, for Wireshark."
            ),
            click.option("--insecure", is_flag=True, help="Accept any certificate."),
        )
    ):
        function = option(function)
    return function


def header_options(function: F) -> F:
    """``--header`` and ``--route``."""
    header = click.option(
        "--header",
        "headers",
        multiple=True,
        metavar="'NAME: VALUE'",
        help="Add a header to each request. May be repeated.",
    )
    route = click.option(
        "--route",
        "routes",
        multiple=True,
        metavar="URI",
        help="Send by this proxy. May be repeated.",
    )
    return header(route(function))


def read_password(file: TextIO | None) -> str | None:
    if file is None:
        return os.environ.get(PASSWORD_VARIABLE)
    try:
        return file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--password-file: cannot be read: {type(error).__name__}") from None


def with_transport(uri: SipUri, transport: str | None) -> str:
    """The URI with ``;transport=``, unless it says so already."""
    if transport is None or uri.transport == transport:
        return uri.text
    if uri.scheme == "sips" or "transport" in uri.params:
        raise click.UsageError(f"--transport {transport}, but {uri.text} asks for {uri.transport}.")
    return f"{uri.text};transport={transport}"


def make_tls(options: dict[str, Any]) -> pjsip.TlsConfig | None:
    names = ("ca_file", "cert_file", "key_file", "server_name", "keylog_file", "insecure")
    given = {name: options[name] for name in names if options[name]}
    return pjsip.TlsConfig(**given) if given else None


def split_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise click.UsageError(f"--header {text!r}: write it as 'Name: value'.")
    return name.strip(), value.strip()
