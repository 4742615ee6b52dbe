# SPDX-License-Identifier: GPL-3.0-or-later
"""``pjsip-py`` and how it ends."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import ExitStack

import click

import pjsip_py

from . import codes
from .conformance import conformance
from .demo import demo
from .info import info
from .keep import keep
from .ladder import ladder
from .load import load
from .register import register
from .registrar import registrar
from .screen import ReaderGone, abandon_stdout


@click.group(
    name="pjsip-py",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Passwords come from a prompt, a file or the environment, never from the command line.",
)
@click.version_option(pjsip_py.__version__, "-V", "--version", prog_name="pjsip-py")
def app() -> None:
    """SIP registration from the shell, over the real PJSIP stack.

    \b
    pjsip-py demo                        see it work, with nothing but this machine
    pjsip-py register sip:you@host       register and stay registered until Ctrl-C
    pjsip-py keep accounts.toml          keep many accounts registered
    pjsip-py load sip:host               put load on a registrar
    pjsip-py registrar                   a registrar to register at
    pjsip-py ladder trace.pcap           draw the SIP messages of a capture
    pjsip-py conformance sip:host        check a registrar against the RFCs
    """


for command in (demo, register, keep, load, registrar, ladder, conformance, info):
    app.add_command(command)


def run() -> int:
    """Run the command line; the exit code."""
    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed by whoever started us
                setattr(sys, name, stack.enter_context(open(os.devnull, "w")))
        # Library logs are for --verbose: without a handler Python would print warnings by itself.
        for name in ("pjsip_py", "pjsip"):
            logging.getLogger(name).addHandler(logging.NullHandler())
        return _run()


def _run() -> int:
    try:
        code = app.main(prog_name="pjsip-py", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else codes.OK
    except click.ClickException as error:
        error.show()
        return codes.USAGE
    except pjsip_py.PjsipError as error:
        print(f"Error: {error}", file=sys.stderr)
        return codes.of_error(error)
    except (ReaderGone, BrokenPipeError):
        abandon_stdout()
        return codes.BROKEN_PIPE
    except OSError as error:
        print(f"Error: standard output: {error.strerror}", file=sys.stderr)
        abandon_stdout()
        return codes.OUTPUT_FAILED
    except (click.Abort, KeyboardInterrupt) as stop:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # after the ^C that the terminal shows
        return codes.INTERRUPTED + getattr(stop, "signum", signal.SIGINT)
