# SPDX-License-Identifier: GPL-3.0-or-later
"""AccountConfig: everything that makes an account, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from ._lazy import pattern
from ._record import field, field_names, record
from ._regconfig import RegConfig, check_config, check_route
from ._secret import forgets
from ._typing import TYPE_CHECKING, Any
from .auth import Proof, Source
from .errors import ConfigError, InvalidUriError
from .retry import DEFAULT_POLICY, RetryPolicy
from .tls import TlsConfig
from .transport import Transport
from .uri import (
    check_bool,
    check_fields,
    check_int,
    check_seconds,
    check_text,
    default_registrar,
    parse_aor,
)

_OWN = ("registrar", "route", "tls", "transport")  # what each of several registrars may have
MAX_REGISTRARS = 8
MAX_FLOWS = 8
_URN = pattern(r"urn:[A-Za-z0-9][A-Za-z0-9\-]{0,31}:[A-Za-z0-9()+,\-.:=@;$_!*'%/?#]+")
# The name space of this library's instance-ids.
_NAMESPACE = "7a1f7a36-3c0a-5b8e-9c53-2f0f6f1f2b64"


@record(frozen=True, slots=True)
class RegistrarConfig:
    """One of several registrars, with what differs from the account's own settings."""

    uri: str  #: Request-URI; TLS verifies its host
    transport: Transport | None = None
    route: Sequence[str] = ()
    tls: TlsConfig | None = None


@record(frozen=True, kw_only=True)
class AccountConfig:
    """Everything that makes an account; checked when it is made.

    :raises InvalidUriError: a URI; :raises ConfigError: any other field, by its name.
    """

    aor: str  #: address of record, ``sip:user@domain`` (pjsua: ``id``)
    registrar: str | None = None  #: default: the AOR's domain (pjsua: ``reg_uri``)
    #: several, the preferred one first; instead of *registrar*
    registrars: Sequence[str | RegistrarConfig] = ()
    #: Credentials, a BearerToken, several of them, or a callable that is asked for them
    credentials: Proof | Sequence[Proof] | Source = ()
    credentials_timeout: float = 30.0  #: seconds that the callable has for each challenge
    expires: int = 300  #: seconds asked for (pjsua: ``reg_timeout``)
    #: seconds before expiry to refresh, yet never within 5 s of the last time; default: a fifth of
    #: the grant, 5 to 32
    refresh_margin: int | None = None
    timeout: float | None = None  #: seconds for one request; default: SIP timer F, 32 s
    retry: RetryPolicy | None = DEFAULT_POLICY  #: None: never by itself
    failback: float | None = 60.0  #: seconds between looks at a preferred registrar; None: stay
    register_on_add: bool = False  #: begin by itself, paced with the others
    transport: Transport | None = None
    route: Sequence[str] = ()  #: Route headers (pjsua: ``proxy``)
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    contacts: Sequence[str] | None = None  #: instead of one of our making (``force_contact``)
    contact_params: Mapping[str, str | None] | str = ""  #: after the Contact's URI
    contact_uri_params: Mapping[str, str | None] | str = ""  #: inside it (RFC 8599 push)
    #: Contact from where the registrar sees us: 0 no, 1 unless a private address is said to be that
    #: of a public one, 2 always (``allow_contact_rewrite``)
    contact_rewrite: int = 1
    #: seconds between CRLF keep-alives; None: 24-29 over UDP, 95-120 over TCP and TLS or what the
    #: registrar's Flow-Timer says (RFC 5626 §4.4.1); 0: none (``ka_interval``)
    keep_alive: float | None = None
    pong_timeout: float = 10.0  #: seconds to wait for the answer, from who has answered before
    #: RFC 5626: True, or edge proxies with a flow through each (``use_rfc5626``)
    outbound: bool | Sequence[str] = False
    #: URN for ``+sip.instance``; with *outbound* made from machine and AOR when not given
    instance_id: str | None = None
    display_name: str = ""
    from_uri: str | None = None  #: third-party registration: From differs from To
    tls: TlsConfig | None = None
    #: The same, checked, as C takes it; one for each registrar.
    _checked: tuple[RegConfig, ...] = field(init=False, repr=False, compare=False)

    @classmethod
    @forgets
    def from_pjsua(cls, config: object = None, **options: Any) -> AccountConfig:
        """From the fields of ``pjsua_acc_config`` or of PJSUA2's ``AccountConfig``.

        :param config: an object or mapping with such fields, for example PJSUA2's own.
        :param options: the fields one by one, ``reg_uri=…`` or ``regConfig=…``.
        :raises ConfigError: an unknown field, or one that cannot be honoured and would change the
            registration; the message says what to do.  What only matters to calls and media is
            named in a warning.  See ``docs/pjsua.md`` for the table.
        """
        from ._pjsua import from_pjsua_fields

        return cls(**from_pjsua_fields(config, **options))

    if not TYPE_CHECKING:  # which needs to see the fields

        def __init__(self, *, aor: str, **options: Any) -> None:
            # Only what is given, for thousands of accounts leave nearly all at its default; those
            # are the class's attributes.
            if not options.keys() <= _FIELDS:
                check_fields(options, FIELDS)
            set_field = object.__setattr__
            set_field(self, "aor", aor)
            for name, value in options.items():
                set_field(self, name, value)
            self._check(options)

    def _check(self, given: Mapping[str, Any]) -> None:
        if self.registrars == ():
            checked: tuple[RegConfig, ...] = (self._check_registrar(self.registrar),)
        else:
            checked = tuple(self._check_entry(entry) for entry in self._entries())
        object.__setattr__(self, "_checked", checked)
        if not _POLICY.isdisjoint(given):
            self._check_policy()
        if self.instance_id is not None or self.outbound is not False:
            self._check_outbound()

    def _entries(self) -> list[RegistrarConfig]:
        if self.registrar is not None:
            raise ConfigError("registrar and registrars contradict each other: give one of them")
        if isinstance(self.registrars, str) or not isinstance(self.registrars, Sequence):
            raise ConfigError("registrars must be a sequence of URIs, the preferred one first")
        if len(self.registrars) > MAX_REGISTRARS:
            raise ConfigError(f"registrars: at most {MAX_REGISTRARS}")
        entries = [
            entry if isinstance(entry, RegistrarConfig) else RegistrarConfig(entry)
            for entry in self.registrars
        ]
        if len({str(entry.uri) for entry in entries}) != len(entries):
            raise ConfigError("registrars: the same registrar twice")
        return entries

    def _check_registrar(self, uri: str | None) -> RegConfig:
        if uri is None:
            uri = default_registrar(parse_aor("aor", self.aor)).text
        return self._check_config(uri, self.transport, self.route, self.tls)

    def _check_entry(self, entry: RegistrarConfig) -> RegConfig:
        tls = entry.tls or self.tls
        if entry.tls is None and tls is not None and not _is_secure(entry):
            tls = None  # it is meant for the others
        try:
            return self._check_config(
                entry.uri, entry.transport or self.transport, entry.route or self.route, tls
            )
        except (ConfigError, InvalidUriError) as error:
            if not str(error).startswith(_OWN):
                raise
            raise type(error)(f"registrars: {error}") from None

    def _check_config(
        self,
        registrar: str,
        transport: Transport | None,
        route: Sequence[str],
        tls: TlsConfig | None,
    ) -> RegConfig:
        return check_config(
            *(self.aor, self.credentials, transport, tls),
            *(registrar, self.contacts, self.expires, self.headers, route, self.from_uri),
            *(self.display_name, self.contact_params, self.contact_uri_params, self.timeout),
            *(self.refresh_margin, self.credentials_timeout),
        )

    def _check_policy(self) -> None:
        if self.tls is not None and not any(config.tls for config in self._checked):
            raise ConfigError("tls: none of the registrars is reached by TLS: use sips:")
        if self.retry is not None and not isinstance(self.retry, RetryPolicy):
            raise ConfigError("retry must be a RetryPolicy, or None")
        if self.failback is not None:
            check_seconds("failback", self.failback, 0.1, 7 * 86400)
        if self.keep_alive is not None and self.keep_alive != 0:
            check_seconds("keep_alive", self.keep_alive, 1, 86400)
        check_seconds("pong_timeout", self.pong_timeout, 0.1, 300)
        if check_int("contact_rewrite", self.contact_rewrite, 0, 2) == 2 and self.contacts:
            raise ConfigError("contact_rewrite=2 and contacts contradict each other")
        check_bool("register_on_add", self.register_on_add)
        margin, expires = self.refresh_margin, self.expires
        if margin is not None and expires is not None and margin >= expires:
            raise ConfigError("refresh_margin must be less than expires")

    def _check_outbound(self) -> None:
        if self.instance_id is not None:
            text = check_text("instance_id", self.instance_id, maximum=128)
            if not _URN.fullmatch(text):
                raise ConfigError("instance_id must be a URN, such as 'urn:uuid:…' (RFC 5626 §4.1)")
        if self.contacts is not None:
            raise ConfigError("outbound and instance_id go with a contact of our making")
        if "+sip.instance" in str(self.contact_params) or "reg-id" in str(self.contact_params):
            raise ConfigError("contact_params: +sip.instance and reg-id are instance_id's to write")
        if isinstance(self.outbound, bool):
            edges: tuple[str, ...] = ()
        elif isinstance(self.outbound, str) or not isinstance(self.outbound, Sequence):
            raise ConfigError("outbound must be True, False or a sequence of edge proxies")
        else:
            edges = check_route(self.outbound)[0] if len(self.outbound) <= MAX_FLOWS else ()
            if not edges:
                raise ConfigError(f"outbound: 1 to {MAX_FLOWS} edge proxies")
            if self.route != () or any(len(config.settings.route) for config in self._checked):
                raise ConfigError("outbound: edge proxies and route contradict each other")
        if self.outbound is False:
            return
        hops = [check_route([edge])[1] for edge in edges] or [
            c.settings.next_hop for c in self._checked
        ]
        for hop in hops:
            if hop is not None and hop.transport == "udp":
                raise ConfigError(
                    f"outbound: {hop.text!r} is reached by UDP; flows are connections: "
                    "write ;transport=tcp or use sips:"
                )

    def _flows(self) -> int:
        """How many registrations it takes."""
        return 1 if isinstance(self.outbound, bool) else len(self.outbound)

    def _flow_configs(self, reg_id: int, outbound: bool) -> tuple[RegConfig, ...]:
        """As the flow of this number registers, one for each registrar."""
        if self.instance_id is None and self.outbound is False:
            return self._checked
        params = f';+sip.instance="<{self.instance_id or instance_id(self.aor)}>"'
        supported = "gruu"
        if outbound:
            params += f";reg-id={reg_id}"
            supported += ", outbound"
        changes: dict[str, Any] = {}
        if not isinstance(self.outbound, bool):
            route, hop = check_route([self.outbound[max(reg_id, 1) - 1]])
            assert hop is not None
            changes = {
                "route": route,
                "next_hop": hop,
                "protocol": hop.transport,
                "is_address": hop.is_address,
            }
        return tuple(
            config.change(
                contact_params=config.settings.contact_params + params,
                headers=(*config.settings.headers, ("Supported", supported)),
                **changes,
            )
            for config in self._checked
        )


def _is_secure(entry: RegistrarConfig) -> bool:
    text = str(entry.uri).lower()
    return text.startswith("sips:") or "transport=tls" in text


def instance_id(aor: str) -> str:
    """The same for an AOR on this machine from run to run (RFC 5626 §4.1)."""
    import uuid

    return f"urn:uuid:{uuid.uuid5(uuid.UUID(_NAMESPACE), f'{_machine()}/{aor}')}"


def _machine() -> str:
    import socket
    import uuid

    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError, UnicodeDecodeError), open(path, encoding="ascii") as file:
            text = file.read().strip()
            if text:
                return text
    node = uuid.getnode()
    # The multicast bit says that there is no network card, and that it is drawn for this process.
    return socket.gethostname() if node >> 40 & 1 else f"{node:012x}"


FIELDS = tuple(field_names(AccountConfig))
_FIELDS = frozenset(FIELDS)
# What _check_policy() looks at.
_POLICY = {
    *("tls", "retry", "failback", "keep_alive", "pong_timeout", "contact_rewrite", "contacts"),
    *("register_on_add", "refresh_margin", "expires"),
}


def make_config(aor: str | AccountConfig, options: dict[str, Any]) -> AccountConfig:
    if isinstance(aor, AccountConfig):
        if options:
            raise ConfigError("give an AccountConfig or its fields, not both")
        return aor
    return AccountConfig(aor=aor, **options)
