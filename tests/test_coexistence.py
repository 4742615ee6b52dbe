# SPDX-License-Identifier: GPL-3.0-or-later
"""pjsip_py beside another PJSIP in one process: the wheel of PJSUA2."""

from __future__ import annotations

import importlib.util

import pytest
from programs import run_program

from pjsip_py.testing import Registrar

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(
        importlib.util.find_spec("pjsua2") is None,
        reason="needs the module pjsua2: pip install pjsua2-python (CPython 3.8 to 3.12)",
    ),
]

OURS = """
import pjsip_py as pjsip

def ours(name):
    with pjsip.Endpoint() as ep:
        account = ep.add_account(
            f"sip:{{name}}@example.com", registrar={uri!r},
            credentials=pjsip.Credentials("alice", "Side-by-Side-2"),
        )
        print("ours", account.register().result(10).code, flush=True)
"""

THEIRS = """
import time
import pjsua2

class Account(pjsua2.Account):
    code = 0
    def onRegState(self, prm):
        self.code = prm.code

def theirs(during=lambda: None):
    ep = pjsua2.Endpoint()
    ep.libCreate()
    config = pjsua2.EpConfig()
    config.logConfig.level = config.logConfig.consoleLevel = 0
    config.uaConfig.threadCnt = 0
    config.uaConfig.mainThreadOnly = True
    ep.libInit(config)
    ep.audDevManager().setNullDev()
    transport = pjsua2.TransportConfig()
    transport.boundAddress = "127.0.0.1"
    ep.transportCreate(pjsua2.PJSIP_TRANSPORT_UDP, transport)
    ep.libStart()
    account = Account()
    account_config = pjsua2.AccountConfig()
    account_config.idUri = "sip:theirs@example.com"
    account_config.regConfig.registrarUri = {uri!r}
    account_config.sipConfig.authCreds.append(
        pjsua2.AuthCredInfo("digest", "*", "alice", 0, "Side-by-Side-2")
    )
    account.create(account_config)
    deadline = time.monotonic() + 10
    while not account.code and time.monotonic() < deadline:
        ep.libHandleEvents(10)
    print("theirs", account.code, flush=True)
    during()
    account.shutdown()
    ep.libDestroy()
"""

PROGRAMS = {
    "ours imported first": OURS + THEIRS + "ours('a'); theirs(); ours('b')",
    "theirs imported first": THEIRS + OURS + "ours('a'); theirs(); ours('b')",
    "both at once, ours first": OURS + THEIRS + "theirs(lambda: ours('a'))",
    "both at once, theirs first": THEIRS + OURS + "theirs(lambda: ours('a'))",
    "theirs inside ours": OURS
    + THEIRS
    + """
with pjsip.Endpoint() as ep:
    client = ep.registration({uri!r}, "sip:a@example.com", expires=1,
                             credentials=pjsip.Credentials("alice", "Side-by-Side-2"))
    print("ours", client.register().result(10).code, flush=True)
    stream = client.events()
    theirs(lambda: stream.get(5))
    print("ours", client.register().result(10).code, flush=True)
""",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_both_register_from_one_process(program: str) -> None:
    with Registrar(users={"alice": "Side-by-Side-2"}, algorithms=("MD5",)) as registrar:
        finished = run_program(program.format(uri=registrar.uri()), timeout=40)
        assert finished.code == 0, finished
        # What else is there is the log of theirs.
        lines = [x for x in finished.out.splitlines() if x.startswith(("ours ", "theirs "))]
        assert set(lines) == {"ours 200", "theirs 200"}, finished
        assert lines.count("theirs 200") == 1
        agents = {str(r.headers.get("User-Agent")).split("/")[0] for r in registrar.requests}
        assert "pjsip_py" in agents
        assert len(agents) == 2
