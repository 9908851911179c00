"""Certificates in OpenSSH's format: what is put into them, and what is accepted of them.

Two kinds, signed by different keys (law 3). An *access certificate* is what a contractor holds: the bastion alone
trusts its key. A *target certificate* is made for one session and shown to the target, which trusts its own scope's key
only.
The format is OpenSSH's PROTOCOL.certkeys; strings and integers are those of RFC 4251, section 5.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from bastion.core.errors import Refused
from bastion.core.geofence import Address
from bastion.core.policy import Action
from bastion.core.target import Scope

USER_CERTIFICATE = 1
"""SSH_CERT_TYPE_USER; host certificates (2) are never accepted from a client."""

MAX_LIFETIME = timedelta(hours=1)
"""Whatever is configured, no access certificate is good for longer, and none that claims to be is accepted."""

CLOCK_TOLERANCE = timedelta(seconds=30)
"""How far before the present a target certificate begins, for targets whose clocks are a little behind."""

_RENEW = "Get a new one: bastion cert TARGET"

_SUFFIX = "-cert-v01@openssh.com"

CERTIFIED_KEYS = {
    "ssh-ed25519": "ssh-ed25519" + _SUFFIX,
    "ecdsa-sha2-nistp256": "ecdsa-sha2-nistp256" + _SUFFIX,
    "ecdsa-sha2-nistp384": "ecdsa-sha2-nistp384" + _SUFFIX,
    "ecdsa-sha2-nistp521": "ecdsa-sha2-nistp521" + _SUFFIX,
    "sk-ssh-ed25519@openssh.com": "sk-ssh-ed25519" + _SUFFIX,
    "sk-ecdsa-sha2-nistp256@openssh.com": "sk-ecdsa-sha2-nistp256" + _SUFFIX,
}
"""Key types that are certified. RSA is left out: every client of the last ten years has Ed25519, and one modulus of
16,384 bits costs as much to check as a hundred logins (CVE-2026-39829)."""

_FIELDS = {
    "ssh-ed25519": 1,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
"""How many strings follow the type in a public key of that type."""

MAX_KEY = 1024
"""Bytes of a public key blob; the largest accepted type has 172, and application names of security keys vary."""

KEPT = 256
"""Certificates that are kept parsed: clients offer one, then sign with it, and come again."""

MAX_CERTIFICATE = 8192
"""Bytes of a certificate blob; ours have about 500."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key of a type that is certified: its blob (RFC 4253, section 6.6) was checked to have that form."""

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """``SHA256:…`` as ssh-keygen prints it."""
        return fingerprint(self.blob)


def fingerprint(blob: bytes) -> str:
    """``SHA256:…`` of a public key blob, as ssh-keygen prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).rstrip(b"=").decode()


def parse_public_key(line: str) -> PublicKey:
    """Read one line of a ``.pub`` file.

    Raises:
        Refused: it is not one public key of a type that is certified.
    """
    words = line.split(None, 2)
    if len(words) < 2 or "\n" in line.strip():
        raise Refused("That is not an OpenSSH public key. Send the one line of a file like id_ed25519.pub.")
    if words[0] not in CERTIFIED_KEYS:
        wanted = "ssh-keygen -t ed25519"
        raise Refused(f"Keys of the type {words[0][:40]!r} are not certified. Make one with: {wanted}")
    try:
        blob = base64.b64decode(words[1], validate=True)
        reader = _Reader(blob)
        if len(blob) > MAX_KEY or reader.string().decode("ascii") != words[0]:
            raise ValueError("the type inside differs")
        for _ in range(_FIELDS[words[0]]):
            reader.string()
        reader.end()
    except (ValueError, binascii.Error) as error:
        raise Refused("That public key is damaged. Copy the whole line of the .pub file.", detail=str(error)) from None
    return PublicKey(words[0], blob)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The signed contents of a user certificate. Times are whole seconds."""

    public_key: PublicKey
    serial: int
    key_id: str
    principals: tuple[str, ...]
    valid_after: datetime
    valid_before: datetime
    critical_options: Mapping[str, bytes]
    extensions: Mapping[str, bytes]
    authority: bytes
    """Blob of the key that signs."""


def access_principal(scope: Scope, grant_id: str) -> str:
    """The one principal of an access certificate: of four parts, where a target's has three."""
    return f"access/{scope}/{grant_id}"


def target_principal(scope: Scope, login: str) -> str:
    """The one principal of a target certificate: the line of the target's AuthorizedPrincipalsFile for ``login``."""
    return f"{scope}/{login}"


def access_certificate(
    key: PublicKey,
    *,
    serial: int,
    identity: str,
    scope: Scope,
    grant_id: str,
    grant_ends_at: datetime,
    address: Address,
    authority: bytes,
    lifetime: timedelta,
    now: datetime,
) -> Certificate:
    """What a contractor gets: pinned to the client's address, good for ``lifetime`` and never past the grant."""
    return Certificate(
        public_key=key,
        serial=serial,
        key_id=f"{identity} {grant_id}",
        principals=(access_principal(scope, grant_id),),
        valid_after=_whole(now),
        valid_before=_whole(min(now + min(lifetime, MAX_LIFETIME), grant_ends_at)),
        critical_options={"source-address": _string(f"{address}/{address.max_prefixlen}".encode())},
        extensions={"permit-pty": b""},
        authority=authority,
    )


PERMITS: Mapping[Action, str] = {
    Action.SSH_SHELL: "permit-pty",
    Action.SSH_EXEC: "permit-pty",
    Action.SSH_FORWARD_LOOPBACK: "permit-port-forwarding",
    Action.SSH_FORWARD: "permit-port-forwarding",
    Action.SSH_FORWARD_REMOTE: "permit-port-forwarding",
    Action.SSH_FORWARD_SOCKET: "permit-port-forwarding",
    Action.SSH_FORWARD_REMOTE_SOCKET: "permit-port-forwarding",
    Action.SSH_AGENT: "permit-agent-forwarding",
}
"""What a target's server must be permitted by the certificate, besides running programs (PROTOCOL.certkeys)."""


def permits(actions: Collection[Action]) -> frozenset[str]:
    """The extensions that a target certificate needs for ``actions``."""
    return frozenset(PERMITS[action] for action in actions if action in PERMITS)


def target_certificate(
    key: PublicKey,
    *,
    serial: int,
    session_id: str,
    identity: str,
    scope: Scope,
    login: str,
    authority: bytes,
    lifetime: timedelta,
    now: datetime,
    permitted: Collection[str],
) -> Certificate:
    """What the bastion shows to a target for one session: one login of one scope, for as long as connecting takes.

    ``permitted`` are extensions: the target's server lets the connection do no more (see `permits`).
    """
    return Certificate(
        public_key=key,
        serial=serial,
        key_id=f"{session_id} {identity}",
        principals=(target_principal(scope, login),),
        valid_after=_whole(now - CLOCK_TOLERANCE),
        valid_before=_whole(now + lifetime),
        critical_options={},
        extensions=dict.fromkeys(permitted, b""),
        authority=authority,
    )


def to_be_signed(certificate: Certificate, nonce: bytes) -> bytes:
    """The bytes that the authority signs: everything of the certificate but the signature."""
    key = certificate.public_key
    fields = _Reader(key.blob)
    fields.string()
    return b"".join(
        (
            _string(CERTIFIED_KEYS[key.type].encode()),
            _string(nonce),
            fields.rest(),
            struct.pack(">QI", certificate.serial, USER_CERTIFICATE),
            _string(certificate.key_id.encode()),
            _string(b"".join(_string(principal.encode()) for principal in certificate.principals)),
            struct.pack(">QQ", int(certificate.valid_after.timestamp()), int(certificate.valid_before.timestamp())),
            _string(_options(certificate.critical_options)),
            _string(_options(certificate.extensions)),
            _string(b""),
            _string(certificate.authority),
        )
    )


def signed(body: bytes, signature: bytes) -> bytes:
    """The certificate blob: what was signed, and the signature."""
    return body + _string(signature)


def certificate_line(blob: bytes, comment: str) -> str:
    """One line as in a ``-cert.pub`` file."""
    return f"{_Reader(blob).string().decode('ascii')} {base64.b64encode(blob).decode()} {comment}\n"


@lru_cache(maxsize=KEPT)
def parse_certificate(blob: bytes) -> Certificate:
    """Read a user certificate: each field once, in order, nothing left over. The signature is *not* checked here.

    Raises:
        Refused: it is not a user certificate over a key type that is certified here.
    """
    try:
        if len(blob) > MAX_CERTIFICATE:
            raise ValueError("too long")
        reader = _Reader(blob)
        name = reader.string().decode("ascii")
        plain = next((plain for plain, certified in CERTIFIED_KEYS.items() if certified == name), None)
        if plain is None:
            raise ValueError(f"type {name!r}")
        reader.string()
        key = _string(plain.encode()) + b"".join(_string(reader.string()) for _ in range(_FIELDS[plain]))
        serial, kind = reader.number(8), reader.number(4)
        if kind != USER_CERTIFICATE:
            raise ValueError("not a user certificate")
        certificate = Certificate(
            public_key=PublicKey(plain, key),
            serial=serial,
            key_id=reader.string().decode(),
            principals=_read_principals(reader.string()),
            valid_after=_moment(reader.number(8)),
            valid_before=_moment(reader.number(8)),
            critical_options=_read_options(reader.string()),
            extensions=_read_options(reader.string()),
            authority=_read_authority(reader),
        )
        reader.string()
        reader.end()
        return certificate
    except ValueError as error:
        raise Refused("That certificate cannot be read.", detail=str(error)) from None


@dataclass(frozen=True, slots=True)
class Accepted:
    """An access certificate that is right in itself. That its grant lives is asked separately, each time."""

    certificate: Certificate
    scope: Scope
    grant_id: str


@dataclass(frozen=True, slots=True)
class Rejected:
    reason: str


def judge_access(
    certificate: Certificate, *, authorities: Mapping[bytes, Scope], address: Address, now: datetime
) -> Accepted | Rejected:
    """Whether an access certificate may be used from ``address`` now. Its signature was checked by the caller.

    Args:
        certificate: as it was presented.
        authorities: the blobs of the scopes' access keys. The key says the scope; the principal must agree.
        address: the client's real one.
        now: the moment.
    """
    scope = authorities.get(certificate.authority)
    if scope is None:
        return Rejected("This certificate was not made by this bastion.")
    prefix = access_principal(scope, "")
    if len(certificate.principals) != 1 or not certificate.principals[0].startswith(prefix):
        return Rejected("This certificate does not name exactly one grant of its scope.")
    grant_id = certificate.principals[0].removeprefix(prefix)
    if not grant_id or not grant_id.replace("-", "").isalnum() or not grant_id.isascii():
        return Rejected("This certificate names a grant that cannot exist.")
    if set(certificate.critical_options) != {"source-address"}:
        return Rejected("This certificate has options that are not understood here.")
    if certificate.critical_options["source-address"] != _string(f"{address}/{address.max_prefixlen}".encode()):
        return Rejected(f"This certificate was made for another address than yours ({address}). {_RENEW}")
    if certificate.valid_before - certificate.valid_after > MAX_LIFETIME:
        return Rejected("This certificate claims to be good for longer than any is.")
    if now < certificate.valid_after:
        return Rejected(
            f"This certificate is not valid before {certificate.valid_after:%Y-%m-%d %H:%M:%S} UTC; "
            f"it is {now:%H:%M:%S} here. One of the two clocks is wrong."
        )
    if now >= certificate.valid_before:
        return Rejected(f"This certificate ended at {certificate.valid_before:%Y-%m-%d %H:%M:%S} UTC. {_RENEW}")
    return Accepted(certificate, scope, grant_id)


def _whole(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def _moment(seconds: int) -> datetime:
    """A time of a certificate; ``0`` to ``2^64-1``, which datetimes do not reach (they end in the year 9999)."""
    return datetime.fromtimestamp(min(seconds, 253_402_300_799), UTC)


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _options(options: Mapping[str, bytes]) -> bytes:
    """Name and data of each, in lexical order as the format demands."""
    return b"".join(_string(name.encode()) + _string(options[name]) for name in sorted(options))


def _read_options(data: bytes) -> dict[str, bytes]:
    reader, options, last = _Reader(data), dict[str, bytes](), ""
    while reader.more():
        name = reader.string().decode("ascii")
        if name <= last:
            raise ValueError("options out of order or twice")
        options[name] = reader.string()
        last = name
    return options


def _read_principals(data: bytes) -> tuple[str, ...]:
    reader, principals = _Reader(data), list[str]()
    while reader.more():
        principals.append(reader.string().decode())
    return tuple(principals)


def _read_authority(reader: _Reader) -> bytes:
    """The signing key's blob; a certificate in its place is refused, as the format demands."""
    if reader.string():
        raise ValueError("the reserved field is used")
    blob = reader.string()
    if _Reader(blob).string().endswith(_SUFFIX.encode()):
        raise ValueError("signed by a certificate")
    return blob


class _Reader:
    """Takes fields from the front of a blob. Every method raises ValueError when there is not enough left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def more(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise ValueError("cut short")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def string(self) -> bytes:
        return self.take(self.number(4))

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        if self.more():
            raise ValueError("something follows the end")
