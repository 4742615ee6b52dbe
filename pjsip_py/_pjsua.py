# SPDX-License-Identifier: GPL-3.0-or-later
"""An account in pjsua's words: ``pjsua_acc_config`` and PJSUA2's ``AccountConfig``, become ours.

:data:`TABLE` has a row for each member of ``pjsua_acc_config`` (pjsua.h, PJSIP 2.17); docs/pjsua.md
shows it.  What depends on several members is worked out by the functions at the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any, NamedTuple

from ._regconfig import MAX_EXPIRES
from ._secret import forgets
from .auth import ALGORITHMS, MAX_CREDENTIALS, Credentials
from .errors import ConfigError, InvalidUriError, PjsuaFieldWarning
from .message import split_name_addr, unquote
from .retry import RetryPolicy
from .transport import Transport
from .uri import check_fields, check_int, check_text, default_registrar, parse_aor, parse_uri

Check = Callable[[str, object], Any]  # (name as it was written, value) -> the value to go on with


class Row(NamedTuple):
    """A member of ``pjsua_acc_config``."""

    pjsua: str  #: "" where PJSUA2 has a member of its own
    pjsua2: str  #: "" where PJSUA2 has none
    defaults: tuple[object, ...]  #: pjsua's; a build or an uninitialised library has others
    check: Check | None  #: None: nothing here depends on it
    ours: str  #: the field of AccountConfig that it decides
    note: str  #: what differs, and why
    area: str = ""  #: what it is about, where nothing here is about that

    @property
    def key(self) -> str:
        return self.pjsua or self.pjsua2


# -- one value each -------------------------------------------------------------------------------


def _text(name: str, value: object) -> str | None:
    return check_text(name, value) or None


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, int):
        raise ConfigError(f"{name} must be True or False, not {type(value).__name__}")
    return bool(value)


def _up_to(maximum: int) -> Check:
    """A small number, of which C makes no difference to a pj_bool_t."""
    return lambda name, value: check_int(
        name, int(value) if isinstance(value, bool) else value, 0, maximum
    )


def _seconds(name: str, value: object) -> int:
    return check_int(name, value, 0, 86400)


def _expires(name: str, value: object) -> int | None:
    return check_int(name, value, 0, MAX_EXPIRES) or None


def _margin(name: str, value: object) -> int:
    return max(1, _seconds(name, value))


def _transport(name: str, value: object) -> Transport | None:
    if isinstance(value, Transport):
        return value
    if value == -1:
        return None
    raise ConfigError(
        f"{name} must be the Transport that Endpoint.listen() returned: "
        "pjsua's numbers of transports mean nothing here"
    )


def _refuse(advice: str) -> Check:
    def check(name: str, value: object) -> None:
        raise ConfigError(f"{name}: {advice}")

    return check


def _items(value: object) -> tuple[object, ...]:
    """C's array: a single item, or any sequence of them, a SWIG vector included."""
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)


def _texts(name: str, value: object) -> tuple[str, ...]:
    return tuple(check_text(name, item) for item in _items(value))


def _read(item: object, member: str) -> Any:
    return item.get(member) if isinstance(item, Mapping) else getattr(item, member, None)


def _headers(name: str, value: object) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Mapping) and "hName" not in value:
        return tuple(value.items())
    return tuple(_header(name, item) for item in _items(value))


def _header(name: str, item: object) -> tuple[str, str]:
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return item[0], item[1]
    header = _read(item, "hName"), _read(item, "hValue")
    if None in header:
        raise ConfigError(f"{name} must be (name, value) pairs, or have hName and hValue")
    return header


# The members of pjsip_cred_info and of PJSUA2's AuthCredInfo.
_CREDENTIAL = {
    "realm": "realm",
    "scheme": "scheme",
    "username": "username",
    "data_type": "data_type",
    "dataType": "data_type",
    "data": "data",
    "algorithm_type": "algorithm_type",
    "algoType": "algorithm_type",
    "ext": "aka",
    "akaK": "aka",
    "akaOp": "aka",
    "akaAmf": "aka",
}


def _credentials(name: str, value: object) -> tuple[Credentials, ...]:
    return tuple(_credential(name, item) for item in _items(value))


def _credential(name: str, item: object) -> Credentials:
    if isinstance(item, Credentials):
        return item
    if isinstance(item, Mapping):
        check_fields(map(str, item), tuple(_CREDENTIAL))
    elif not hasattr(item, "username"):
        raise ConfigError(f"{name}: expected realm, username and data, not {type(item).__name__}")
    info: dict[str, Any] = {"scheme": "digest", "data_type": 0, "algorithm_type": 0}
    info |= {to: v for key, to in _CREDENTIAL.items() if (v := _read(item, key)) not in (None, "")}
    kind = check_int(f"{name}: data_type", info["data_type"], 0, 255)
    if kind & 0xF0 or info.get("aka"):
        raise ConfigError(f"{name}: AKA is not supported; give a password or an HA1")
    if kind > 1:
        raise ConfigError(f"{name}: data_type must be 0, a password, or 1, an HA1")
    if check_text(f"{name}: scheme", info["scheme"]).lower() != "digest":
        raise ConfigError(f"{name}: scheme {info['scheme']!r} is not supported: 'digest' is")
    username, realm, data = (info.get(key, "") for key in ("username", "realm", "data"))
    if kind == 0:
        return Credentials(username, data, realm=realm)
    algorithm = check_int(f"{name}: algorithm_type", info["algorithm_type"], 0, 3) or 1
    return Credentials(username, realm=realm, ha1={ALGORITHMS[algorithm - 1]: data})


# -- the table ------------------------------------------------------------------------------------


def _elsewhere(area: str, *members: tuple[Any, ...]) -> tuple[Row, ...]:
    return tuple(
        Row(pjsua, pjsua2, tuple(defaults), None, "", "", area)
        for pjsua, pjsua2, *defaults in members
    )


# fmt: off
TABLE: tuple[Row, ...] = (
    Row("id", "idUri", ("",), _text, "aor, display_name",
        'Required. A name-addr, `"Alice" <sip:alice@example.com>`, is taken apart.'),
    Row("reg_uri", "regConfig.registrarUri", ("",), _text, "registrar",
        "Empty means in pjsua that the account never registers. Here `registrar` is then the "
        "AOR's domain and `register_on_add` False: nothing is sent until `register()`."),
    Row("register_on_acc_add", "regConfig.registerOnAdd", (True,), _flag, "register_on_add",
        "True unless said otherwise, as in pjsua, and only with a `reg_uri`. Paced across "
        "accounts."),
    Row("cred_info", "sipConfig.authCreds", ((),), _credentials, "credentials",
        "One or several, with `realm`, `scheme`, `username`, `data_type` (`dataType`), `data` and "
        "`algorithm_type` (`algoType`). `data_type` 0 is a password, 1 an HA1, whose realm must "
        "be named: the hash is made for one. AKA (16) and schemes other than digest are refused."),
    Row("cred_count", "", (0,), _up_to(MAX_CREDENTIALS), "credentials",
        "May be left out: then every entry of `cred_info` counts."),
    Row("auth_pref.initial_auth", "sipConfig.authInitialEmpty", (False,),
        _refuse("the first REGISTER carries no empty Authorization: leave it False"), "",
        "Refused: the first REGISTER carries no Authorization; the second answers the registrar's "
        "challenge."),
    Row("auth_pref.algorithm", "sipConfig.authInitialAlgorithm", ("",), None, "",
        "Part of `initial_auth`. For the least that is accepted: `Credentials(min_algorithm=…)`."),
    Row("use_shared_auth", "sipConfig.useSharedAuth", (False, True), None, "",
        "An account has one authentication session for life; there is nothing to share it with."),
    Row("proxy", "sipConfig.proxies", ((),), _texts, "route",
        "In order; `;lr` is added where it lacks. There is no global `outbound_proxy`, which "
        "pjsua puts first: write it in front."),
    Row("proxy_cnt", "", (0,), _up_to(8), "route",
        "May be left out: then every entry of `proxy` counts."),
    Row("reg_use_proxy", "regConfig.proxyUse", (3,), _up_to(3), "route",
        "0: none; 2 and 3: `proxy`. 1, pjsua's global proxies alone, is refused: write those into "
        "`proxy`."),
    Row("reg_timeout", "regConfig.timeoutSec", (300,), _expires, "expires",
        "0 stands for 300, as in pjsua."),
    Row("reg_delay_before_refresh", "regConfig.delayBeforeRefreshSec", (5,), _margin,
        "refresh_margin",
        "Ours is a fifth of the grant, 5 to 32 s, for a lost REGISTER to be repeated in time. "
        "0 becomes 1."),
    Row("reg_retry_interval", "regConfig.retryIntervalSec", (300,), _seconds, "retry",
        "See [Retry](#retry). 0: `retry=None`."),
    Row("reg_first_retry_interval", "regConfig.firstRetryIntervalSec", (0,), _seconds, "retry",
        "See [Retry](#retry)."),
    Row("reg_retry_random_interval", "regConfig.randomRetryIntervalSec", (10,), _seconds, "retry",
        "See [Retry](#retry)."),
    Row("reg_hdr_list", "regConfig.headers", ((),), _headers, "headers",
        "A mapping, (name, value) pairs, or objects with `hName` and `hValue`."),
    Row("contact_params", "sipConfig.contactParams", ("",), _text, "contact_params",
        "pjsua ignores it beside `force_contact`; so do we, with a warning."),
    Row("reg_contact_params", "regConfig.contactParams", ("",), _text, "contact_params",
        "Follows `contact_params`, or is appended to `force_contact`."),
    Row("contact_uri_params", "sipConfig.contactUriParams", ("",), _text, "contact_uri_params",
        "As `contact_params`."),
    Row("reg_contact_uri_params", "regConfig.contactUriParams", ("",), _text,
        "contact_uri_params",
        "As `reg_contact_params`. PJSIP 2.17 then writes `contact_params` twice, we once."),
    Row("force_contact", "sipConfig.contactForced", ("",), _text, "contacts",
        "Stays as it is; pjsua puts the address that the registrar sees in its place, unless "
        "`allow_contact_rewrite` is 0. Means `outbound=False`."),
    Row("transport_id", "sipConfig.transportId", (-1,), _transport, "transport",
        "The `Transport` that `listen()` returned, not a number; beside an object of PJSUA2's: "
        "`from_pjsua(config, transport_id=udp)`."),
    Row("ipv6_sip_use", "sipConfig.ipv6Use", (1, 0),
        _refuse("choose the IP version by transport_id=ep.listen(…, host='0.0.0.0' or '::')"), "",
        "The IP version is the transport's, else that of the registrar's address. 2 to 4 are "
        "refused unless `transport_id` has decided."),
    Row("allow_contact_rewrite", "natConfig.contactRewriteUse", (1,), _up_to(2), "contact_rewrite",
        "The same three modes. With 1 a new port at a private address is followed too, in pjsua "
        "with 2 only."),
    Row("contact_rewrite_method", "natConfig.contactRewriteMethod", (6,), None, "",
        "One REGISTER brings the new Contact and takes the old one back; the AOR is reachable "
        "all the time."),
    Row("contact_use_src_port", "natConfig.contactUseSrcPort", (1, 0), None, "",
        "The Contact has the listening port; with `outbound` the registrar comes back over the "
        "connection itself."),
    Row("allow_via_rewrite", "natConfig.viaRewriteUse", (1, 0), None, "",
        "Via keeps our own address; `rport` (RFC 3581) brings the response back."),
    Row("use_rfc5626", "natConfig.sipOutboundUse", (1,), _flag, "outbound",
        "True over TCP and TLS unless said otherwise, False over UDP, both as in pjsua."),
    Row("rfc5626_instance_id", "natConfig.sipOutboundInstanceId", ("",), _text, "instance_id",
        "Without the angle brackets. pjsua's own is a hash of the host name, one for all accounts; "
        "ours comes from machine and AOR, one for each. Without outbound it is not sent."),
    Row("rfc5626_reg_id", "natConfig.sipOutboundRegId", ("", "1"),
        _refuse("flows are numbered 1 to n here: see AccountConfig(outbound=[edge proxies])"), "",
        "Refused, but for 1: `outbound=[…]` numbers its flows. PJSIP 2.17 writes a stray quotation "
        "mark after any other."),
    Row("ka_interval", "natConfig.udpKaIntervalSec", (15,), _seconds, "keep_alive",
        "Of UDP alone, as in pjsua; 0: none. TCP and TLS keep ours (RFC 5626 §4.4.1)."),
    Row("ka_data", "natConfig.udpKaData", ("\r\n",), None, "",
        "The keep-alive is CRLF, which a SIP server knows to skip (RFC 3261 §7.5)."),
    Row("unreg_timeout", "regConfig.unregWaitMsec", (4000,), None, "",
        "`Endpoint.close(timeout=…)`, in seconds, for all accounts together."),
    Row("disable_reg_on_modify", "regConfig.disableRegOnModify", (False,), None, "",
        "`Account.modify()` registers again when the REGISTER itself has changed."),
    Row("priority", "priority", (0,), None, "",
        "Says which account an incoming request belongs to; accounts take none yet."),
    Row("user_data", "", (), None, "",
        "Keep it in a subclass: `ep.add_account(config, cls=MyAccount)`."),
    *_elsewhere(
        "calls",
        ("require_100rel", "callConfig.prackUse", 0),
        ("use_timer", "callConfig.timerUse", 1, 0),
        ("timer_setting.min_se", "callConfig.timerMinSESec", 90, 0),
        ("timer_setting.sess_expires", "callConfig.timerSessExpiresSec", 1800, 0),
        ("use_siprec", "callConfig.siprecUse", 0),
        ("call_hold_type", "callConfig.holdType", 0),
        ("drop_calls_on_reg_fail", "regConfig.dropCallsOnFail", False),
        ("ip_change_cfg.shutdown_tp", "ipChangeConfig.shutdownTp", True),
        ("ip_change_cfg.hangup_calls", "ipChangeConfig.hangupCalls", False),
        ("ip_change_cfg.reinvite_flags", "ipChangeConfig.reinviteFlags", 50),
        ("ip_change_cfg.reinv_use_update", "ipChangeConfig.reinvUseUpdate", 0),
    ),
    *_elsewhere(
        "messages and presence",
        ("auto_repond_sip_message", "sipConfig.autoRespondSipMessage", True),
        ("sub_hdr_list", "presConfig.headers", ()),
        ("publish_enabled", "presConfig.publishEnabled", False),
        ("publish_opt.queue_request", "presConfig.publishQueue", True),
        ("unpublish_max_wait_time_msec", "presConfig.publishShutdownWaitMsec", 2000),
        ("pidf_tuple_id", "presConfig.pidfTupleId", ""),
        ("mwi_enabled", "mwiConfig.enabled", False),
        ("mwi_expires", "mwiConfig.expirationSec", 3600),
    ),
    *_elsewhere(
        "STUN, UPnP, NAT64, ICE, TURN",
        ("sip_stun_use", "natConfig.sipStunUse", 0, 1),
        ("media_stun_use", "natConfig.mediaStunUse", 2, 0, 1),
        ("sip_upnp_use", "natConfig.sipUpnpUse", 0, 1),
        ("media_upnp_use", "natConfig.mediaUpnpUse", 0, 1),
        ("nat64_opt", "natConfig.nat64Opt", 0),
        ("allow_sdp_nat_rewrite", "natConfig.sdpNatRewriteUse", 0),
        ("ice_cfg_use", "", 0),
        ("ice_cfg.enable_ice", "natConfig.iceEnabled", False),
        ("ice_cfg.ice_max_host_cands", "natConfig.iceMaxHostCands", -1),
        ("ice_cfg.ice_manual_host_cnt", "", 0),
        ("ice_cfg.ice_manual_host", "natConfig.iceManualHost", ()),
        ("ice_cfg.ice_opt.aggressive", "natConfig.iceAggressiveNomination", True),
        ("ice_cfg.ice_opt.nominated_check_delay", "natConfig.iceNominatedCheckDelayMsec", 400),
        ("ice_cfg.ice_opt.controlled_agent_want_nom_timeout",
         "natConfig.iceWaitNominationTimeoutMsec", 10000),
        ("ice_cfg.ice_opt.trickle", "natConfig.iceTrickle", 0),
        ("ice_cfg.ice_opt.check_src_addr", "natConfig.iceCheckSrcAddr", 1),
        ("ice_cfg.ice_no_rtcp", "natConfig.iceNoRtcp", False),
        ("ice_cfg.ice_always_update", "natConfig.iceAlwaysUpdate", True),
        ("turn_cfg_use", "", 0),
        ("turn_cfg.enable_turn", "natConfig.turnEnabled", False),
        ("turn_cfg.turn_server", "natConfig.turnServer", ""),
        ("turn_cfg.turn_conn_type", "natConfig.turnConnType", 17),
        ("turn_cfg.turn_auth_cred", "", ()),
        ("", "natConfig.turnUserName", ""),
        ("", "natConfig.turnPasswordType", 0),
        ("", "natConfig.turnPassword", ""),
        ("turn_cfg.turn_tls_setting", "", ()),
    ),
    *_elsewhere(
        "media",
        ("lock_codec", "mediaConfig.lockCodecEnabled", 1),
        ("rtp_cfg.port", "mediaConfig.transportConfig.port", 4000, 0),
        ("rtp_cfg.port_range", "mediaConfig.transportConfig.portRange", 0),
        ("rtp_cfg.randomize_port", "mediaConfig.transportConfig.randomizePort", False),
        ("rtp_cfg.public_addr", "mediaConfig.transportConfig.publicAddress", ""),
        ("rtp_cfg.bound_addr", "mediaConfig.transportConfig.boundAddress", ""),
        ("rtp_cfg.tls_setting", "mediaConfig.transportConfig.tlsConfig", ()),
        ("rtp_cfg.qos_type", "mediaConfig.transportConfig.qosType", 0),
        ("rtp_cfg.qos_params", "mediaConfig.transportConfig.qosParams", ()),
        ("rtp_cfg.sockopt_params", "mediaConfig.transportConfig.sockOptParams", ()),
        ("ipv6_media_use", "mediaConfig.ipv6Use", 2, 0, 1),
        ("use_loop_med_tp", "mediaConfig.useLoopMedTp", False),
        ("enable_loopback", "mediaConfig.enableLoopback", False),
        ("use_srtp", "mediaConfig.srtpUse", 0),
        ("srtp_secure_signaling", "mediaConfig.srtpSecureSignaling", 1, 0),
        ("srtp_optional_dup_offer", "", False),
        ("srtp_opt.crypto_count", "", 0),
        ("srtp_opt.crypto", "mediaConfig.srtpOpt.cryptos", ()),
        ("srtp_opt.keying_count", "", 0),
        ("srtp_opt.keying", "mediaConfig.srtpOpt.keyings", ()),
        ("use_stream_ka", "mediaConfig.streamKaEnabled", False),
        ("stream_ka_cfg", "", ()),
        ("enable_rtcp_mux", "mediaConfig.rtcpMuxEnabled", False),
        ("rtcp_fb_cfg.dont_use_avpf", "mediaConfig.rtcpFbConfig.dontUseAvpf", True),
        ("rtcp_fb_cfg.cap_count", "", 0),
        ("rtcp_fb_cfg.caps", "mediaConfig.rtcpFbConfig.caps", ()),
        ("enable_rtcp_xr", "mediaConfig.rtcpXrEnabled", False),
        ("txt_red_level", "textConfig.redundancyLevel", 2),
    ),
    *_elsewhere(
        "video",
        ("vid_in_auto_show", "videoConfig.autoShowIncoming", False),
        ("vid_out_auto_transmit", "videoConfig.autoTransmitOutgoing", False),
        ("vid_wnd_flags", "videoConfig.windowFlags", 0),
        ("vid_cap_dev", "videoConfig.defaultCaptureDevice", -1),
        ("vid_rend_dev", "videoConfig.defaultRenderDevice", -2),
        ("vid_stream_rc_cfg.method", "videoConfig.rateControlMethod", 2, 0),
        ("vid_stream_rc_cfg.bandwidth", "videoConfig.rateControlBandwidth", 0),
        ("vid_stream_sk_cfg.count", "videoConfig.startKeyframeCount", 5, 0),
        ("vid_stream_sk_cfg.interval", "videoConfig.startKeyframeInterval", 1000, 0),
    ),
)
# fmt: on


def _members() -> dict[str, list[str]]:
    """The members of each structure, by its path; "" is the whole."""
    members: dict[str, list[str]] = {}
    for name in _BY_NAME:
        while name:
            above, _, member = name.rpartition(".")
            listed = members.setdefault(above, [])
            if member not in listed:
                listed.append(member)
            name = above
    return members


_BY_NAME = {name: row for row in TABLE for name in (row.pjsua, row.pjsua2) if name}
_MEMBERS = _members()


# -- what was said --------------------------------------------------------------------------------

# What decides a row: how it was written, and the value.
Said = dict[str, tuple[str, object]]


@forgets
def from_pjsua_fields(config: object = None, /, **fields: object) -> dict[str, Any]:
    """The keyword arguments of :class:`~pjsip_py.AccountConfig` for an account of pjsua's.

    *fields* are named as in ``pjsua_acc_config`` or as in PJSUA2's ``AccountConfig``; structures
    may be mappings or objects.  *config* may be an ``AccountConfig`` of PJSUA2's, whose members at
    their defaults count as not said.

    :raises ConfigError: a name that pjsua does not have, a field given twice, or a value that
        registers in a way that there is not here.
    """
    said: Said = {}
    if config is not None:
        _collect("", config, said)
    _collect("", fields, said)
    _cut(said, "cred_info", "cred_count")
    _cut(said, "proxy", "proxy_cnt")
    if isinstance(said.get("transport_id", ("", None))[1], Transport):
        said.pop("ipv6_sip_use", None)  # the transport has decided
    values: dict[str, Any] = {}
    ignored: list[str] = []
    for key, (name, value) in said.items():
        row = _BY_NAME[key]
        if not row.ours and _is_default(row, value):
            continue
        if row.check is None:
            ignored.append(name)
        elif (checked := row.check(name, value)) is not None:
            values[key] = checked
    if "force_contact" in values:
        unread = {"contact_params", "contact_uri_params", "rfc5626_instance_id"} & values.keys()
        ignored += [said[key][0] for key in sorted(unread)]
    options = _options(values)
    if ignored:
        message = f"without effect here (docs/pjsua.md says why): {', '.join(ignored)}"
        # Between its caller and here are from_pjsua() and two frames of forgets().
        warnings.warn(message, PjsuaFieldWarning, stacklevel=5)
    return options


def _collect(path: str, source: object, said: Said) -> None:
    """Note what *source*, the whole or the structure at *path*, says."""
    prefix = path and path + "."
    if isinstance(source, Mapping):
        for name, value in source.items():
            _note(f"{prefix}{name}", value, said, written=True)
        return
    scalar = isinstance(source, (str, bytes, int, float, list, tuple, type))
    members = [] if scalar else [m for m in _MEMBERS[path] if hasattr(source, m)]
    if not members:
        raise ConfigError(
            f"{path or 'config'} must be a mapping or an object with members such as "
            f"{_MEMBERS[path][0]!r}, not {type(source).__name__}"
        )
    for member in members:
        _note(prefix + member, getattr(source, member), said, written=False)


def _note(name: str, value: object, said: Said, *, written: bool) -> None:
    if value is None:
        return  # C's NULL
    if name and name in _MEMBERS:
        _collect(name, value, said)
        return
    if name not in _BY_NAME:
        _refuse_unknown(name)
    row = _BY_NAME[name]
    if not written and _is_default(row, value):
        return  # an object has all its members; nobody need have set this one
    if row.key in said:
        raise ConfigError(f"{said[row.key][0]} and {name} are the same field: give one")
    said[row.key] = (name, value)


def _refuse_unknown(name: str) -> None:
    for row in TABLE:
        if row.ours and name in row.ours.split(", "):
            raise ConfigError(f"{name} is a field of AccountConfig: pjsua calls it {row.pjsua}")
    check_fields((name,), (*_BY_NAME, *filter(None, _MEMBERS)))


def _cut(said: Said, array: str, count: str) -> None:
    """C's arrays have room for more than there is in them."""
    if count not in said:
        return
    name, value = said.pop(count)
    wanted = _up_to(MAX_CREDENTIALS)(name, value)
    name, value = said.get(array, (array, ()))
    items = _items(value)
    if wanted > len(items):
        raise ConfigError(f"{count} is {wanted}, but {name} has {len(items)}")
    said[array] = (name, items[:wanted])


def _is_default(row: Row, value: object) -> bool:
    if row.defaults != ((),):
        return value in row.defaults
    if isinstance(value, Sized):
        return len(value) == 0
    return row.check is None  # a structure that nothing looks into


# -- what follows from it -------------------------------------------------------------------------

_PLAIN = ("credentials", "expires", "refresh_margin", "headers", "transport", "contact_rewrite")


def _options(values: dict[str, Any]) -> dict[str, Any]:
    """From checked values, by the name of pjsua's, to ours."""
    options = {
        row.ours: values[row.pjsua] for row in TABLE if row.ours in _PLAIN and row.pjsua in values
    }
    options |= _identity(values)
    options |= _route(values)
    options |= _contact(values)
    options |= _retry(values)
    options |= _by_protocol(values, _protocol(options))
    return options


def _identity(values: dict[str, Any]) -> dict[str, Any]:
    if "id" not in values:
        raise ConfigError("id, the AOR, is missing (PJSUA2: idUri)")
    name, aor = _name_addr("id", values["id"])
    options: dict[str, Any] = {"aor": aor}
    if name:
        options["display_name"] = name
    if "reg_uri" in values:
        options["registrar"] = _name_addr("reg_uri", values["reg_uri"])[1]
        options["register_on_add"] = values.get("register_on_acc_add", True)
    return options


def _name_addr(name: str, text: str) -> tuple[str, str]:
    """Display name and URI of a name-addr or of a bare URI."""
    parts = split_name_addr(text)
    if parts is None:
        return "", text
    display_name, uri, tail = parts
    if tail:
        raise InvalidUriError(f"{name}: {tail!r} stands after the URI's closing bracket")
    return unquote(display_name), uri


def _route(values: dict[str, Any]) -> dict[str, Any]:
    use = values.get("reg_use_proxy", 3)
    if use == 1:
        raise ConfigError(
            "reg_use_proxy 1 asks for pjsua's global outbound proxies alone: write them into proxy"
        )
    return {"route": values["proxy"]} if values.get("proxy") and use else {}


def _contact(values: dict[str, Any]) -> dict[str, Any]:
    forced = values.get("force_contact")
    if forced is None:
        return {
            name: text
            for name in ("contact_params", "contact_uri_params")
            if (text := _joined(values.get(name), values.get("reg_" + name)))
        }
    in_uri = _joined(values.get("reg_contact_uri_params"))
    after = _joined(values.get("reg_contact_params"))
    if in_uri or after:
        name, uri, tail = split_name_addr(forced) or ("", forced, "")
        forced = f"{name} <{uri}{in_uri}>{tail}{after}".lstrip()
    return {"contacts": (forced,)}


def _joined(*params: str | None) -> str:
    return "".join(";" + text.strip("; ") for text in params if text)


def _retry(values: dict[str, Any]) -> dict[str, Any]:
    """pjsua waits *first*, then *interval* again and again, each give or take *spread*.

    With a *spread* larger than the wait it takes anything from 0 to *spread* instead.
    """
    names = ("reg_retry_interval", "reg_first_retry_interval", "reg_retry_random_interval")
    if not any(name in values for name in names):
        return {}
    interval, first, spread = (values.get(n, d) for n, d in zip(names, (300, 0, 10), strict=True))
    if interval == 0:
        return {"retry": None}
    # The middle of what pjsua draws from; at once is 1 s.
    initial, maximum = (x if x >= spread else spread / 2 for x in (first, interval))
    initial = max(1.0, float(initial))
    maximum = max(initial, float(maximum))
    return {
        "retry": RetryPolicy(
            initial=initial,
            factor=min(100.0, maximum / initial),
            maximum=maximum,
            jitter="half" if spread else "none",
            reconnect=min(3600.0, spread if first < spread else first + spread),
        )
    }


def _protocol(options: dict[str, Any]) -> str:
    """udp, tcp or tls, of the next hop: AccountConfig has a given transport agree with it."""
    if "route" in options:
        _, uri, _ = split_name_addr(options["route"][0]) or ("", options["route"][0], "")
        return parse_uri("proxy", uri).transport
    if "registrar" in options:
        return parse_uri("reg_uri", options["registrar"]).transport
    return default_registrar(parse_aor("id", options["aor"])).transport


def _by_protocol(values: dict[str, Any], protocol: str) -> dict[str, Any]:
    """What pjsua does over UDP only, or never over UDP."""
    if protocol == "udp":
        return {"keep_alive": float(values["ka_interval"])} if "ka_interval" in values else {}
    if "force_contact" in values or not values.get("use_rfc5626", True):
        return {}
    options: dict[str, Any] = {"outbound": True}
    if "rfc5626_instance_id" in values:
        options["instance_id"] = values["rfc5626_instance_id"].strip("<>")
    return options
