"""One setting each: from the text in the file to the value, or a sentence that says how it is written.

Every function raises `ValueError` with the end of a sentence that the setting's path begins.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import SplitResult, urlsplit

from bastion.config.countries import COUNTRIES
from bastion.core.algorithms import LEGACY, STRONG
from bastion.core.errors import Refused
from bastion.core.geofence import Network
from bastion.core.identity import MAX_SUBJECT
from bastion.core.opening import Opening
from bastion.core.target import LABEL, LOGIN, parse_destination

_HOST_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*")
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+)):([0-9]{1,5})")
_DURATION = re.compile(r"(?:(\d{1,4})d)?(?:(\d{1,4})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?", re.ASCII)
WORKSPACE = re.compile(r"[TE][A-Z0-9]{2,20}")
"""A Slack team or enterprise id."""

MATTERMOST_ID = re.compile(r"[a-z0-9]{26}")
SIGNING_KEY = re.compile(r"MFkw[A-Za-z0-9+/]{118,120}={0,2}")
"""SubjectPublicKeyInfo of P-256 in base64 (RFC 5480, section 2)."""

DISCORD_KEY = re.compile(r"[0-9a-f]{64}")
SNOWFLAKE = re.compile(r"[0-9]{15,20}")
GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

CHANNEL = re.compile(r"[CGD][A-Z0-9]{2,20}")
"""A Slack channel's id."""

_PLAIN = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]+")

VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,60}\*?")
OBEYED = ("LD_*", "DYLD_*", "GCONV_PATH", "BASH_*", "ENV", "IFS", "PATH", "PS4", "SHELLOPTS", "PROMPT_COMMAND",
          "SSH_*", "GIT_*", "PYTHON*", "PERL*", "RUBY*", "NODE_*", "JAVA_*", "KRB5*", "HOME", "SHELL")  # fmt: skip
"""Variables by which loaders, shells, interpreters and `git` are told what to run."""

MIN_BORNE, MAX_BORNE = 5, 10_000
"""Fewer would keep out whoever mistypes; more is no limit."""

MAX_WORKERS = 64
"""Of one node; a machine with more cores is better two nodes."""

MIN_CHANNELS, MAX_CHANNELS = 8, 4096
"""Of one SSH client: a shell, the forwards of an editor and an agent; half a gigabyte of memory."""

MAX_HOST = 253
"""Characters of a host name (RFC 1035, section 2.3.4, without the root)."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """Where to listen. Port 0 lets the system choose, on loopback only."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def text(raw: Any) -> str:
    """One line of text that is not empty."""
    if isinstance(raw, bool) or raw is None:
        raise ValueError("must be text")
    if isinstance(raw, int | float):
        raise ValueError(f'must be text, not a number: write "{raw}" with quotes')
    if not isinstance(raw, str):
        raise ValueError("must be text")
    if not _PLAIN.fullmatch(raw):
        raise ValueError("must be one line of text that is not empty" if raw else "must not be empty")
    return raw


def label(raw: Any) -> str:
    """A name of a node, an environment, a region or a target."""
    if not LABEL.fullmatch(name := text(raw)):
        raise ValueError(f"{_quote(name)} must be lower-case letters, digits and hyphens, at most 63")
    return name


def login(raw: Any) -> str:
    if not LOGIN.fullmatch(name := text(raw)):
        raise ValueError(f"{_quote(name)} must be a login name: lower-case letters, digits, _ and -, at most 32")
    return name


def port(raw: Any) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw <= 65535:
        raise ValueError("must be a number from 1 to 65535")
    return raw


def workers(raw: Any) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw <= MAX_WORKERS:
        raise ValueError(f"must be a number from 1 to {MAX_WORKERS}")
    return raw


def channels(raw: Any) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int) or not MIN_CHANNELS <= raw <= MAX_CHANNELS:
        raise ValueError(f"must be a number from {MIN_CHANNELS} to {MAX_CHANNELS}")
    return raw


def borne(raw: Any) -> int:
    """How many attempts are borne before more are refused."""
    if isinstance(raw, bool) or not isinstance(raw, int) or not MIN_BORNE <= raw <= MAX_BORNE:
        raise ValueError(f"must be a number from {MIN_BORNE} to {MAX_BORNE}")
    return raw


def algorithms(raw: Any) -> frozenset[str]:
    """What an old target may use: everything that is kept for such, or a list of names."""
    if raw == "legacy":
        return frozenset(LEGACY)
    if not isinstance(raw, list):
        raise ValueError("must be legacy, or a list of names such as [diffie-hellman-group14-sha256]")
    for name in map(text, raw):
        if name in STRONG:
            raise ValueError(f"{_quote(name)} is used with every target; leave it out")
        if name not in LEGACY:
            raise ValueError(f"{_quote(name)} is not one that an old target can be given: {', '.join(LEGACY)}")
    return frozenset(raw)


@dataclass(frozen=True, slots=True)
class Via:
    """``login@target``: a hop, as it is written. The target's name may be short."""

    login: str
    target: str


def via(raw: Any) -> Via:
    """Who forwards, and where."""
    written = text(raw)
    try:
        hop = parse_destination(written)
    except Refused:
        hop = None
    if hop is None or hop.target is None or "@" not in written:
        raise ValueError(f"{_quote(written)} must be login@target, such as tunnel@jump-1.production.eu")
    return Via(hop.login, hop.target)


def country(raw: Any) -> str:
    code = text(raw)
    if code in COUNTRIES:
        return code
    if code.upper() in COUNTRIES:
        raise ValueError(f"{_quote(code)} must be written in upper case: {code.upper()}")
    hint = " (the United Kingdom is GB)" if code.upper() == "UK" else ""
    raise ValueError(f"{_quote(code)} is not a country; use its two letters of ISO 3166-1, such as DE{hint}")


def network(raw: Any) -> Network:
    """``10.20.0.0/16``; a single address is a network of one."""
    written = text(raw)
    try:
        parsed = ipaddress.ip_network(written, strict=False)
    except ValueError:
        raise ValueError(f"{_quote(written)} must be a network, such as 10.20.0.0/16 or fd00::/8") from None
    if "/" in written and parsed.network_address != ipaddress.ip_address(written.split("/")[0]):
        raise ValueError(f"{_quote(written)} has bits beyond its length; did you mean {parsed}?")
    if isinstance(parsed, ipaddress.IPv6Network) and parsed.network_address.ipv4_mapped is not None:
        raise ValueError(f"{_quote(written)} is IPv4 in IPv6's clothes; write it as IPv4, which is how it is looked up")
    return parsed


def balancer(raw: Any) -> Network:
    """A network whose PROXY headers are believed: never everybody (law 2)."""
    parsed = network(raw)
    if parsed.prefixlen == 0:
        raise ValueError(f"{parsed} would believe everybody's word about where they are; list the balancers")
    return parsed


def host(raw: Any) -> str:
    """A host name or an address."""
    name = text(raw)
    if _is_address(name) or (_HOST_NAME.fullmatch(name) and len(name) <= MAX_HOST and not _is_number(name)):
        return name
    raise ValueError(f"{_quote(name)} must be a host name or an IP address, without port, user or scheme")


def opening(raw: Any) -> Opening:
    """``db.internal:5432``, ``10.20.0.0/16:443``."""
    written = text(raw)
    try:
        return Opening.parse(written)
    except ValueError as error:
        raise ValueError(f"{_quote(written)} {error}") from None


def variable(raw: Any) -> str:
    """``LANG``, or all that begin so: ``LC_*``. Never one that a loader or a shell obeys."""
    name = text(raw)
    if not VARIABLE.fullmatch(name):
        raise ValueError(f"{_quote(name)} must be a variable's name, such as LANG, or the beginning of some: LC_*")
    if (obeyed := next((each for each in OBEYED if _overlap(name, each)), None)) is not None:
        raise ValueError(f"{_quote(name)} would let a client say which code programs load: {obeyed}")
    return name


def _overlap(one: str, other: str) -> bool:
    """Whether a variable can match both, each a name or the beginning of some."""
    short, long = sorted((one, other), key=lambda name: len(name.removesuffix("*")))
    if not short.endswith("*"):
        return short == long or (long.endswith("*") and long.removesuffix("*") == short)
    return long.startswith(short.removesuffix("*"))


def host_port(raw: Any) -> HostPort:
    written = text(raw)
    match = _HOST_PORT.fullmatch(written)
    if match is None:
        raise ValueError(f"{_quote(written)} must be an address and a port, such as 0.0.0.0:2222 or [::]:2222")
    address = host(match[1] or match[2])
    number = int(match[3])
    if number > 65535 or (number == 0 and not is_loopback(address)):
        raise ValueError(f"{_quote(written)} must have a port from 1 to 65535")
    return HostPort(address, number)


def duration(raw: Any, least: timedelta, most: timedelta) -> timedelta:
    """``45d``, ``10m``, ``1h30m``, ``90s``, within the two bounds."""
    match = _DURATION.fullmatch(raw) if isinstance(raw, str) else None
    if match is None or not any(match.groups()):
        raise ValueError("must be a duration, such as 10m, 1h30m or 45d")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not least <= length <= most:
        raise ValueError(f"{raw} must be from {spell(least)} to {spell(most)}")
    return length


_SIZE = re.compile(r"(\d{1,6})(KiB|MiB|GiB|TiB)")
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class Size(int):
    """Bytes."""

    def __str__(self) -> str:
        unit = max((unit for unit in _UNITS if not self % _UNITS[unit]), key=_UNITS.__getitem__)
        return f"{self // _UNITS[unit]}{unit}"


def size(raw: Any) -> Size | None:
    """``16MiB``, ``500KiB``, ``1GiB``; None for ``everything``."""
    if raw == "everything":
        return None
    match = _SIZE.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise ValueError("must be a size, such as 500KiB, 16MiB or 1GiB, or the word everything")
    return Size(int(match[1]) * _UNITS[match[2]])


def spell(length: timedelta) -> str:
    """A span in the largest unit it is a whole number of, as `duration` reads it."""
    for unit, letter in ((timedelta(days=1), "d"), (timedelta(hours=1), "h"), (timedelta(minutes=1), "m")):
        if length and not length % unit:
            return f"{length // unit}{letter}"
    return f"{int(length.total_seconds())}s"


def public_url(raw: Any) -> str:
    """``https://bastion.example.com``: an origin (RFC 6454), without the slash at its end."""
    url = _url(text(raw), "https://bastion.example.com")
    if url.path not in ("", "/") or "?" in str(raw):
        raise ValueError(f"must not have a path: write {url.scheme}://{url.netloc}")
    return f"{url.scheme}://{url.netloc}"


def issuer_url(raw: Any) -> str:
    """Exactly as the provider writes it, to the last slash (OpenID Connect Discovery 1.0, section 3)."""
    url = _url(text(raw), "https://login.example.com")
    if "?" in str(raw):
        raise ValueError(f"must not have a query; an issuer is written like https://{url.netloc}{url.path}")
    return str(raw)


def word(raw: Any) -> str:
    """Text that can stand in a list with spaces between."""
    if " " in (written := text(raw)):
        raise ValueError(f"{_quote(written)} must not have a space in it")
    return written


def subject_pattern(raw: Any) -> str:
    """``repo:acme/web:ref:refs/heads/main``, ``system:serviceaccount:ci:*``, ``repo:acme/web:**``."""
    pattern = text(raw)
    if len(pattern) > MAX_SUBJECT:
        raise ValueError(f"must not be longer than {MAX_SUBJECT} characters")
    if pattern.startswith("*"):
        raise ValueError(f"{_quote(pattern)} must begin with what all the workloads have in common")
    if "**" in pattern.removesuffix(":**"):
        raise ValueError(f"{_quote(pattern)} may have ** as its last part only, after a colon")
    return pattern


def workspace(raw: Any) -> str:
    if not WORKSPACE.fullmatch(team := text(raw)):
        raise ValueError(f"{_quote(team)} must be a Slack team id, such as T012AB3CD")
    return team


def channel(raw: Any) -> str:
    if not CHANNEL.fullmatch(name := text(raw)):
        raise ValueError(f"{_quote(name)} must be the id of a channel, such as C0123456789, not its name")
    return name


def matching(pattern: re.Pattern[str], what: str) -> Callable[[Any], str]:
    """A parser of what ``pattern`` matches whole; ``what`` is the end of the sentence when it does not."""

    def parse(raw: Any) -> str:
        if not pattern.fullmatch(written := text(raw)):
            raise ValueError(f"{_quote(written)} must be {what}")
        return written

    return parse


def https_url(raw: Any) -> str:
    """A URL behind TLS, with whatever path; http only to this machine itself."""
    _url(text(raw), "https://example.com/path")
    return str(raw)


def is_loopback(name: str) -> bool:
    """Whether a host is this machine itself (RFC 6761, section 6.3, for names)."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _url(written: str, example: str) -> SplitResult:
    try:
        url = urlsplit(written)
        host(url.hostname)
        port(url.port if url.port is not None else 443)
    except ValueError:
        raise ValueError(f"must be a URL, such as {example}") from None
    if url.username is not None or "#" in written:
        raise ValueError(f"must be a URL without user and fragment, such as {example}")
    if url.scheme not in ("https", "http"):
        raise ValueError(f"must be a URL, such as {example}")
    if url.scheme == "http" and not is_loopback(str(url.hostname)):
        raise ValueError(f"must begin with https://, because {url.hostname} is not this machine itself")
    return url


def _is_address(name: str) -> bool:
    try:
        return getattr(ipaddress.ip_address(name), "scope_id", None) is None
    except ValueError:
        return False


def _is_number(name: str) -> bool:
    """``10.0.0.256`` and ``127.1`` are no host names: resolvers read them as addresses that nobody meant."""
    return name.rsplit(".", 1)[-1].isdigit()


def _quote(written: str) -> str:
    return repr(written if len(written) <= 60 else written[:60] + "…")
