# SPDX-License-Identifier: GPL-3.0-or-later
"""Challenges, credentials, replays."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from pjsip_py.message import split_outside_quotes

from ..digest import ALGORITHMS, digest_response
from .agent import Agent
from .check import NotApplicable, NotSupported, check
from .client import Challenge, Draft, Reply, challenges, digest_challenges

CREDENTIALS = ("credentials",)

#: From strong to weak.
STRENGTH = ("SHA-512-256", "SHA-256", "MD5")

_PARAMETER = re.compile(r'([A-Za-z0-9\-_.!%*+`\'~]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s",;=]+)')
_QUOTED = {"realm", "domain", "nonce", "opaque", "qop"}
_BARE = {"stale", "algorithm"}


def refused_as_bad(ua: Agent, draft: Draft, what: str) -> Reply:
    """Send a request that proves nothing: it must be refused and bind nothing."""
    reply = ua.refused(ua.send(draft), what)
    ua.must(400 <= reply.code < 500, f"{what}: expected 401, 407, 403 or 400, got {reply.line}")
    ua.only(ua.fetch(), *())
    return reply


@check("auth.unproven", "RFC 3261 §10.3 step 3", "RFC 3261 §22.1", needs=CREDENTIALS)
def unproven(ua: Agent) -> None:
    """A request without credentials binds nothing."""
    ua.challenged(ua.draft(ua.contact(), expires=60))
    ua.only(ua.fetch(), *())


@check("auth.challenge", "RFC 7616 §3.3", "RFC 3261 §22.4", "RFC 3261 §25.1", needs=CREDENTIALS)
def challenge_form(ua: Agent) -> None:
    """A challenge has realm and nonce, each parameter once, quoted where the grammar says so.

    realm, nonce, opaque, qop and domain are quoted strings; algorithm and stale are not. A 401
    has WWW-Authenticate, a 407 Proxy-Authenticate.
    """
    reply, _ = ua.challenged(ua.draft(ua.contact(), expires=60))
    name = "WWW-Authenticate" if reply.code == 401 else "Proxy-Authenticate"
    ua.must(name in reply.headers, f"a {reply.code} without {name}")
    for value in reply.headers.get_all(name):
        scheme, _, rest = value.strip().partition(" ")
        if scheme.lower() != "digest":
            continue
        seen: dict[str, str] = {}
        for part in split_outside_quotes(rest, ","):
            found = _PARAMETER.fullmatch(part)
            ua.must(found, f"no parameter of a challenge: {part!r}")
            assert found is not None
            key = found[1].lower()
            ua.must(key not in seen, f"{key} stands there twice")
            seen[key] = found[2]
            quoted = found[2].startswith('"')
            ua.must(quoted or key not in _QUOTED, f"{key} is not quoted: {part}")
            ua.must(not quoted or key not in _BARE, f"{key} is quoted: {part}")
        for key in ("realm", "nonce"):
            ua.must(seen.get(key, '""') != '""', f"the challenge has no {key}")
        stale = seen.get("stale", "false").lower()
        ua.must(stale == "false", f"stale={stale}, though no nonce was given")


@check("auth.qop", "RFC 7616 §3.3", "RFC 8760 §2.6", "RFC 3261 §22.4", needs=CREDENTIALS)
def qop(ua: Agent) -> None:
    """A challenge offers qop=auth."""
    reply, _ = ua.challenged(ua.draft(ua.contact(), expires=60))
    for each in digest_challenges(reply):
        offered = [one.strip() for one in each.params.get("qop", "").lower().split(",")]
        ua.must("auth" in offered, f"qop is {each.params.get('qop')!r}")


@check("auth.algorithms", "RFC 8760 §2.1", "RFC 8760 §2.3", needs=CREDENTIALS)
def algorithms(ua: Agent) -> None:
    """SHA-256 or better is offered, and of several algorithms the strongest first."""
    reply, _ = ua.challenged(ua.draft(ua.contact(), expires=60))
    realms: dict[tuple[bool, str], list[str]] = {}
    for each in digest_challenges(reply):
        realms.setdefault((each.proxy, each.realm), []).append(each.algorithm)
    for (_, realm), offered in realms.items():
        known = [each for each in offered if each in STRENGTH]
        ua.must(
            known == sorted(known, key=STRENGTH.index),
            f"the algorithms of realm {realm!r} are offered as {', '.join(offered)}",
        )
        ua.must(len(set(offered)) == len(offered), f"{', '.join(offered)}: one stands there twice")
        if set(known) <= {"MD5"}:
            raise NotSupported(f"only {', '.join(offered)} is offered")


@check("auth.algorithms-work", "RFC 8760 §2.3", "RFC 7616 §3.4", needs=CREDENTIALS)
def algorithms_work(ua: Agent) -> None:
    """Each algorithm that is offered is taken."""
    reply, _ = ua.challenged(ua.draft(ua.contact(), expires=60))
    names = [each.algorithm for each in digest_challenges(reply) if each.algorithm in ALGORITHMS]
    if len({each.realm for each in digest_challenges(reply)}) > 1:
        raise NotApplicable("several realms: proving one is not enough")
    for name in dict.fromkeys(names):
        draft = ua.draft(ua.contact(), expires=60)
        reply = ua.send(draft)
        for each in digest_challenges(reply):
            if each.algorithm == name:
                ua.want(ua.send(ua.proven(draft, each)), 200, what=f"a right {name} digest")
                break


@check("auth.not-offered", "RFC 7616 §3.4", "RFC 8760 §2.3", needs=CREDENTIALS)
def not_offered(ua: Agent) -> None:
    """A digest by an algorithm that was not offered is no proof.

    Else whoever sits in between could have a client prove itself by the weakest.
    """
    draft = ua.draft(ua.contact(), expires=60)
    reply, challenge = ua.challenged(draft)
    offered = {each.algorithm for each in digest_challenges(reply)}
    weaker = [name for name in reversed(STRENGTH) if name not in offered]
    if not weaker:
        raise NotApplicable("it offers every algorithm that there is")
    changed = {"algorithm": weaker[0]}
    refused_as_bad(ua, ua.proven(draft, challenge, changed=changed), f"a {weaker[0]} digest")


@check("auth.right", "RFC 3261 §22.2", "RFC 7616 §3.4", needs=CREDENTIALS)
def right(ua: Agent) -> None:
    """The right credentials are taken."""
    draft = ua.draft(ua.contact(), expires=60)
    reply, _ = ua.challenged(draft)
    ua.only(ua.want(ua.follow(draft, reply), 200), 1)


@check("auth.wrong-password", "RFC 3261 §10.3 step 3", "RFC 3261 §22.2", needs=CREDENTIALS)
def wrong_password(ua: Agent) -> None:
    """A wrong password is refused, and not as a stale nonce, which would be tried again."""
    draft = ua.draft(ua.contact(), expires=60)
    _, challenge = ua.challenged(draft)
    proof = ua.proven(draft, challenge, password=secrets.token_hex(8))
    reply = refused_as_bad(ua, proof, "a wrong password")
    ua.want(reply, 401, 407, 403, what="a wrong password")
    ua.must(not reply.stale, "a wrong password is answered with stale=true")


@check("auth.unknown-user", "RFC 7616 §5.7", "RFC 3261 §26.1.1", needs=CREDENTIALS)
def unknown_user(ua: Agent) -> None:
    """A user who does not exist cannot be told from a wrong password.

    Two answers that differ tell a stranger which user names are worth guessing at. No RFC
    demands it in so many words, so it counts as recommended.
    """
    replies = []
    for user in (ua.target.user, f"nobody-{secrets.token_hex(4)}"):
        draft = ua.draft(ua.contact(), expires=60)
        _, challenge = ua.challenged(draft)
        proof = ua.proven(draft, challenge, user=user, password=secrets.token_hex(8))
        replies.append(ua.refused(ua.send(proof), "a wrong password"))
    known, unknown = replies
    ua.should(
        (known.code, known.reason) == (unknown.code, unknown.reason),
        f"a known user with a wrong password gets {known.line}, an unknown one {unknown.line}",
    )
    names = [sorted({name.lower() for name in reply.headers}) for reply in replies]
    ua.should(names[0] == names[1], "the answers have different headers")


@check("auth.other-realm", "RFC 3261 §22.1", "RFC 7616 §3.4", needs=CREDENTIALS)
def other_realm(ua: Agent) -> None:
    """Credentials for another realm prove nothing."""
    draft = ua.draft(ua.contact(), expires=60)
    _, challenge = ua.challenged(draft)
    changed = {"realm": f"other-{secrets.token_hex(4)}.example"}
    refused_as_bad(ua, ua.proven(draft, challenge, changed=changed), "another realm")


@check("auth.other-nonce", "RFC 7616 §3.3", "RFC 7616 §5.4", needs=CREDENTIALS)
def other_nonce(ua: Agent) -> None:
    """A nonce that the registrar never gave is not taken, though the digest over it is right."""
    draft = ua.draft(ua.contact(), expires=60)
    _, challenge = ua.challenged(draft)
    changed = {"nonce": secrets.token_hex(16)}
    reply = refused_as_bad(ua, ua.proven(draft, challenge, changed=changed), "a made-up nonce")
    ua.must(reply.code in (400, 403) or challenges(reply), f"{reply.line} without a new challenge")


def _used(ua: Agent) -> tuple[Draft, Challenge]:
    """A registration whose credentials have served once, and what they answered."""
    draft = ua.draft(ua.contact(), expires=60)
    _, challenge = ua.challenged(draft)
    if "qop" not in challenge.params:
        raise NotApplicable("the challenge offers no qop: there is no nonce count")
    proof = ua.proven(draft, challenge)
    ua.want(ua.send(proof), 200)
    return proof, challenge


@check("auth.replay", "RFC 7616 §3.4", "RFC 7616 §5.5", needs=CREDENTIALS)
def replay(ua: Agent) -> None:
    """Credentials that were used once are not taken in a second request.

    The nonce count is there so that a server sees a replay; one without memory cannot.
    """
    proof, _ = _used(ua)
    stolen = ua.again(proof).set("Contact", ua.contact(2))
    reply = ua.send(stolen)
    if reply.code < 300:
        raise NotSupported("credentials sent a second time were taken")
    ua.want(reply, 400, 401, 403, 407, what="replayed credentials")
    ua.only(ua.fetch(), 1)


@check("auth.replay-stale", "RFC 7616 §3.3", "RFC 7616 §3.4", needs=CREDENTIALS)
def replay_stale(ua: Agent) -> None:
    """A nonce that may not be used any more is answered with stale=true and a new one.

    Then a client tries again without asking a person for the password.
    """
    proof, challenge = _used(ua)
    reply = ua.send(ua.again(proof))
    if reply.code not in (401, 407):
        raise NotApplicable(f"credentials used twice get no new challenge: {reply.line}")
    ua.should(reply.stale, "the new challenge does not say stale=true")
    fresh = challenges(reply)
    ua.must(
        fresh and fresh[0].params.get("nonce") != challenge.params.get("nonce"),
        "stale=true comes with the same nonce",
    )


@check("auth.count-on", "RFC 7616 §3.4", "RFC 3261 §22.4", needs=CREDENTIALS)
def count_on(ua: Agent) -> None:
    """A nonce used again with the next nonce count is taken, or called stale."""
    draft = ua.draft(ua.contact(), expires=60)
    _, challenge = ua.challenged(draft)
    ua.want(ua.send(ua.proven(draft, challenge)), 200)
    reply = ua.send(ua.proven(draft, challenge, count=2))
    if reply.code != 200:
        ua.want(reply, 200, 401, 407, what="nc=00000002")
        ua.must(reply.stale, f"nc=00000002 after 00000001 gets {reply.line} without stale=true")


@check("auth.nonces-differ", "RFC 7616 §3.3", needs=CREDENTIALS)
def nonces_differ(ua: Agent) -> None:
    """Each challenge has a nonce of its own."""
    nonces = []
    for _ in range(2):
        _, challenge = ua.challenged(ua.draft(ua.contact(), expires=60))
        nonces.append(challenge.params.get("nonce"))
    ua.should(nonces[0] != nonces[1], "two challenges have the same nonce")


@check("auth.digest-uri", "RFC 7616 §3.4.6", "RFC 3261 §22.4", needs=CREDENTIALS)
def digest_uri(ua: Agent) -> None:
    """Credentials for another Request-URI are not taken.

    The uri they were computed over must be the one that the request is for, or what was proven
    for one server serves at another.
    """
    draft = ua.draft(ua.contact(), expires=60)
    _, challenge = ua.challenged(draft)
    changed = {"uri": "sip:another-server.example"}
    refused_as_bad(ua, ua.proven(draft, challenge, changed=changed), "the digest of another URI")


@check("auth.digest-method", "RFC 7616 §3.4.3", "RFC 3261 §22.4", needs=CREDENTIALS)
def digest_method(ua: Agent) -> None:
    """A digest computed for another method is not taken."""
    draft = ua.draft(ua.contact(), expires=60)
    _, challenge = ua.challenged(draft)
    refused_as_bad(ua, ua.proven(draft, challenge, method="INVITE"), "a digest for INVITE")


@check("auth.no-cnonce", "RFC 7616 §3.4", "RFC 3261 §22.4", needs=CREDENTIALS)
def no_cnonce(ua: Agent) -> None:
    """With qop, credentials without cnonce or nc are not taken."""
    for missing in ("cnonce", "nc"):
        draft = ua.draft(ua.contact(), expires=60)
        _, challenge = ua.challenged(draft)
        if "qop" not in challenge.params:
            raise NotApplicable("the challenge offers no qop")
        changed: dict[str, str | None] = {missing: None}
        refused_as_bad(ua, ua.proven(draft, challenge, changed=changed), f"no {missing}")


@check("auth.incomplete", "RFC 7616 §3.4", "RFC 3261 §20.7", needs=CREDENTIALS)
def incomplete(ua: Agent) -> None:
    """Credentials that lack a parameter or cannot be read are not taken."""
    for missing in ("response", "username", "nonce", "uri"):
        draft = ua.draft(ua.contact(), expires=60)
        _, challenge = ua.challenged(draft)
        changed: dict[str, str | None] = {missing: None}
        refused_as_bad(ua, ua.proven(draft, challenge, changed=changed), f"no {missing}")
    draft = ua.draft(ua.contact(), expires=60)
    _, challenge = ua.challenged(draft)
    draft = ua.put_proof(ua.again(draft), challenge, 'Digest username="')
    refused_as_bad(ua, draft, "an unfinished Authorization")


@check("auth.spelling", "RFC 3261 §7.3.1", "RFC 3261 §25.1", needs=CREDENTIALS)
def spelling(ua: Agent) -> None:
    """The scheme and the parameter names may be in any case, in any order, with space around.

    Space and line breaks may stand at commas and equals signs.
    """
    draft = ua.draft(ua.contact(), expires=60)
    _, challenge = ua.challenged(draft)
    proof = ua.proven(draft, challenge)
    parts = split_outside_quotes(proof.get(challenge.header).partition(" ")[2], ",")
    odd = [
        f"{name.upper()} = {value}" for name, _, value in (p.partition("=") for p in parts[::-1])
    ]
    ua.put_proof(proof, challenge, "dIGEST  " + " ,\r\n ".join(odd))
    ua.only(ua.want(ua.send(proof), 200, what="oddly written credentials"), 1)


@check("auth.several-credentials", "RFC 3261 §22.3", "RFC 3261 §20.7", needs=CREDENTIALS)
def several_credentials(ua: Agent) -> None:
    """Credentials for other realms beside the right ones do no harm."""
    draft = ua.draft(ua.contact(), expires=60)
    reply, challenge = ua.challenged(draft)
    if len(challenges(reply)) > 1:
        raise NotApplicable("several realms ask at once")
    other = Challenge(challenge.proxy, {**challenge.params, "realm": "other.example"})
    proof = ua.proven(draft, challenge)
    foreign = other.answer(proof, "somebody", secrets.token_hex(8))
    proof.set(challenge.header, foreign, proof.get(challenge.header))
    ua.only(ua.want(ua.send(proof), 200, what="two realms' credentials"), 1)


@check("auth.several-realms", "RFC 3261 §22.3", needs=CREDENTIALS)
def several_realms(ua: Agent) -> None:
    """Where several realms ask, one request may prove itself to all of them."""
    draft = ua.draft(ua.contact(), expires=60)
    reply, _ = ua.challenged(draft)
    realms: dict[tuple[bool, str], Challenge] = {}
    for _ in range(4):
        realms |= {(each.proxy, each.realm): each for each in challenges(reply)}
        draft = ua.again(draft)
        for name in ("Authorization", "Proxy-Authorization"):
            values = [ua.answer(c, draft) for c in realms.values() if c.header == name]
            if values:
                draft.set(name, *values)
        reply = ua.send(draft)
        if reply.code == 200:
            break
    if len(realms) < 2:
        raise NotApplicable("one realm asks")
    ua.only(ua.want(reply, 200, what=f"credentials for {len(realms)} realms"), 1)


@check("auth.other-aor", "RFC 3261 §10.3 step 4", "RFC 3261 §26.1.1", needs=CREDENTIALS)
def other_aor(ua: Agent) -> None:
    """One user's credentials do not register another user."""
    draft = ua.draft(ua.contact(), expires=60)
    somebody = f"{ua.target.scheme}:conformance-{secrets.token_hex(3)}@{ua.target.domain}"
    draft.set("From", f"<{somebody}>;tag={ua.from_tag}").set("To", f"<{somebody}>")
    reply = ua.send(draft)
    if reply.code in (401, 407):
        reply = ua.follow(draft, reply)
    if reply.code == 200:
        ua.ask(ua.again(draft).set("Contact", ua.contact(1, ";expires=0")))
    ua.refused(reply, f"registering {somebody} with the credentials of {ua.target.user}")
    ua.must(400 <= reply.code < 500, f"expected 403 or 404, got {reply.line}")


@check("auth.info", "RFC 7616 §3.5", needs=CREDENTIALS)
def info(ua: Agent) -> None:
    """Authentication-Info, where it comes, proves that the registrar knows the password too."""
    draft = ua.draft(ua.contact(), expires=60)
    _, challenge = ua.challenged(draft)
    proof = ua.proven(draft, challenge)
    reply = ua.want(ua.send(proof), 200)
    value = reply.headers.get("Authentication-Info", "")
    given = _digest_params(value)
    if "nextnonce" in given:
        after = Challenge(challenge.proxy, {**challenge.params, "nonce": given["nextnonce"]})
        ua.want(ua.send(ua.proven(draft, after)), 200, what="the nextnonce")
    if "rspauth" in given:
        sent = _digest_params(proof.get(challenge.header).partition(" ")[2])
        # Computed as the client's, but over an empty method.
        right = digest_response(sent, ua.target.password or "", "", reply.body)
        ua.must(given["rspauth"].lower() == right, "its rspauth is not that of the password")
    if not given:
        raise NotSupported("there is no Authentication-Info")


@check("auth.bearer", "RFC 8898 §4", "RFC 8898 §2.2", needs=CREDENTIALS)
def bearer(ua: Agent) -> None:
    """A Bearer challenge names the authorization server."""
    reply = ua.send(ua.draft(ua.contact(), expires=60))
    found = [params for _, scheme, params in reply.challenges if scheme.lower() == "bearer"]
    if not found:
        raise NotSupported("it offers no Bearer")
    for params in found:
        server = params.get("authz_server", "")
        ua.must(server, "the Bearer challenge has no authz_server")
        ua.must(server.startswith("https://"), f"authz_server is no https URI: {server}")


def _digest_params(text: str) -> Mapping[str, str]:
    pairs = (_PARAMETER.fullmatch(part) for part in split_outside_quotes(text, ","))
    return {found[1].lower(): found[2].strip('"') for found in pairs if found}
