"""What is needed from outside, as small Protocols. Adapters keep these promises; tests hold them to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from bastion.core.apitoken import ApiToken
from bastion.core.audit import Event, EventFilter
from bastion.core.geofence import Address, Place
from bastion.core.grant import Grant, Request, Review
from bastion.core.identity import Identity, IdentityId, Strength
from bastion.core.notice import Notice
from bastion.core.policy import Access, Occupied, Power, Ruling
from bastion.core.recording import Underway
from bastion.core.session import End, Session
from bastion.core.target import Scope, Target


class Clock(Protocol):
    """The time, and nothing else; tests advance it."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...


# ------------------------------------------------------------------------------------------------------ durable store


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """What is kept of a contractor's certificate: enough to accept it again, nothing that opens anything."""

    serial: int
    fingerprint: str
    """``SHA256:…`` of the certified public key, as ssh-keygen prints it."""
    identity: IdentityId
    scope: Scope
    grant_id: str
    address: str
    valid_after: datetime
    valid_before: datetime
    strength: Strength
    """Of the login that got it. Everything that comes by it is judged by this, whoever logs in anew meanwhile."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A certificate's record and what it stands on, all of one moment."""

    certificate: IssuedCertificate
    grant: Grant
    ended_at: datetime | None
    """Until when nothing counts that its holder proved."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who asks for a door, all of one moment."""

    identity: Identity
    ended_at: datetime | None
    """Until when nothing counts that they proved."""
    grants: Sequence[Grant]


@dataclass(frozen=True, slots=True)
class ChatLink:
    """One chat account belongs to one identity, because that identity said so after logging in."""

    platform: str
    workspace: str
    user: str
    identity: IdentityId
    linked_at: datetime


@dataclass(frozen=True, slots=True)
class ChatPost:
    """Where one chat tells of one request: the platform's name of the message that is this ``part`` of it."""

    request_id: str
    platform: str
    part: str
    message: str


@dataclass(frozen=True, slots=True)
class KeptLogin:
    """One login at an issuer, kept so that it can be asked about later and ended from there."""

    identity: IdentityId
    sid: str
    """The issuer's name for its own session (OpenID Connect Front-Channel Logout 1.0, section 3); empty without one."""
    sealed: bytes | None = field(repr=False)
    """The refresh token and the ID token, encrypted; None once a newer login of the identity has taken over."""
    at: datetime
    """When they logged in."""
    asked_at: datetime | None
    """When the issuer was last asked about it, whatever it answered; None when there is nothing to ask with."""
    confirmed_at: datetime
    """When the issuer last stood by it."""


@dataclass(frozen=True, slots=True)
class KeptNotice:
    """A notice that is still to be told, and by whom it has been told already."""

    notice: Notice
    due: datetime
    told: frozenset[str]
    tries: int


class Transaction(Protocol):
    """Everything written through one transaction is durable together, or not at all.

    Reads inside it see its own writes, and no other writer's come between.
    """

    async def append(self, event: Event) -> Event:
        """Write one event to the audit log; returned with its ``seq``."""
        ...

    async def save_identity(self, identity: Identity, seen_at: datetime) -> None:
        """Remember who logged in last as this id; replaces what was known."""
        ...

    async def add_request(self, request: Request) -> None: ...

    async def request(self, request_id: str) -> Request:
        """Raises `NotFound`."""
        ...

    async def withdraw_request(self, request_id: str, at: datetime) -> Request:
        """Mark it withdrawn; one that is withdrawn already keeps its first time. Raises `NotFound`."""
        ...

    async def close_request(self, request_id: str, at: datetime) -> Request:
        """Mark a break-glass answered for, or an extension given; it keeps its first time. Raises `NotFound`."""
        ...

    async def add_review(self, review: Review) -> None:
        """Add one review. A second of the same identity for the same request raises `Conflict`."""
        ...

    async def reviews(self, request_id: str) -> Sequence[Review]: ...

    async def add_grant(self, grant: Grant) -> None:
        """Add a grant. A second one for the same request raises `Conflict`."""
        ...

    async def grant(self, grant_id: str) -> Grant:
        """Raises `NotFound`."""
        ...

    async def revoke_grant(self, grant_id: str, at: datetime) -> Grant:
        """Mark it revoked; one that is revoked already keeps its first time. Raises `NotFound`."""
        ...

    async def extend_grant(self, grant_id: str, ends_at: datetime) -> Grant:
        """Let it, and its open sessions, last until ``ends_at``; never shorter than it would. Raises `NotFound`,
        and `Conflict` for one that is revoked.
        """
        ...

    async def add_notice(self, notice: Notice, due: datetime) -> bool:
        """Keep what is to be told, not before ``due``. Whether it is new: one of the same id is kept as it was."""
        ...

    async def put_off_notice(self, notice_id: str, *, told: frozenset[str], due: datetime | None) -> None:
        """Note who has told it by now; with ``due`` it is tried again then, and without it is done."""
        ...

    async def add_certificate(self, certificate: IssuedCertificate) -> None:
        """A serial that exists already raises `Conflict`."""
        ...

    async def add_session(self, session: Session) -> None: ...

    async def end_session(self, session_id: str, end: End, at: datetime, exit_status: int | None = None) -> Session:
        """Mark it ended; one that has ended keeps its first end. Raises `NotFound`."""
        ...

    async def link_chat(self, link: ChatLink) -> None:
        """Tie an account to an identity; replaces an older link of the same account."""
        ...

    async def keep_post(self, post: ChatPost) -> None:
        """Remember a message; replaces an older one of the same part."""
        ...

    async def forget_post(self, platform: str, request_id: str, part: str) -> None:
        """Idempotent."""
        ...

    async def end_identity(self, identity: IdentityId, at: datetime) -> bool:
        """From now on nothing counts that ``identity`` proved until ``at``, and its kept logins are forgotten.

        The latest end stands. Returns whether there is such an identity.
        """
        ...

    async def add_api_token(self, token: ApiToken) -> None:
        """Raises `Conflict`: there is one with this id."""
        ...

    async def revoke_api_token(self, token_id: str, at: datetime) -> ApiToken:
        """The first time stands. Raises `NotFound`."""
        ...

    async def forget_api_tokens(self, older_than: datetime) -> None:
        """Drop those that ended before."""
        ...

    async def keep_login(self, login: KeptLogin) -> None:
        """Remember a login; older ones of the identity keep their ``sid`` and lose what is sealed."""
        ...

    async def ask_again(
        self, login: KeptLogin, *, asked_at: datetime, confirmed_at: datetime, sealed: bytes | None
    ) -> bool:
        """Note what an issuer said of ``login``, unless another has taken its place since; whether it was noted."""
        ...

    async def forget_logins(self, older_than: datetime) -> None:
        """Drop kept logins that began before."""
        ...


class Store(Protocol):
    """The durable truth: requests, grants, certificates, sessions, links, and the audit log."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Write. Committed and durable when the block is left, rolled back when it raises.

        Raises:
            Unavailable: the store cannot be written; nothing of the block was kept.
        """
        ...

    async def identity(self, identity_id: IdentityId) -> Identity:
        """As of their last login. Raises `NotFound`."""
        ...

    async def ended_at(self, identity_id: IdentityId) -> datetime | None:
        """When everything that this identity had proven was last declared over; None when it never was."""
        ...

    async def confirmed_at(self, identity_id: IdentityId) -> datetime | None:
        """When an issuer last stood by this identity: at a login, or asked about it since. None when that is over."""
        ...

    async def logins_to_ask(self, issuer: str, asked_before: datetime, limit: int = 100) -> Sequence[KeptLogin]:
        """Kept logins at ``issuer`` that can be asked about and last were before then, longest ago first."""
        ...

    async def login_of(self, identity: IdentityId) -> KeptLogin | None:
        """The newest kept login of ``identity`` that has something sealed."""
        ...

    async def whose_login(self, issuer: str, sid: str) -> IdentityId | None:
        """Whose kept login at ``issuer`` has this ``sid``."""
        ...

    async def api_token(self, token_id: str) -> ApiToken:
        """Raises `NotFound`."""
        ...

    async def api_tokens_of(self, owner: IdentityId) -> Sequence[ApiToken]:
        """Newest first."""
        ...

    async def find_identity(self, text: str) -> Identity:
        """By ``issuer#subject``, or by verified e-mail when exactly one identity has it.

        Raises `NotFound`, `Refused`.
        """
        ...

    async def grants_of(self, identity: IdentityId, ended_after: datetime) -> Sequence[Grant]:
        """Grants whose end is after ``ended_after``, revoked ones too, latest end first."""
        ...

    async def holder(self, identity: IdentityId, ended_after: datetime) -> Holder:
        """Somebody, with the grants that `grants_of` gives. Raises `NotFound`."""
        ...

    async def grants(self, live_at: datetime | None = None, limit: int = 200) -> Sequence[Grant]:
        """Newest first; with ``live_at`` only those live then."""
        ...

    async def grant(self, grant_id: str) -> Grant:
        """Raises `NotFound`."""
        ...

    async def request(self, request_id: str) -> Request:
        """Raises `NotFound`."""
        ...

    async def waiting_requests(self, asked_after: datetime) -> Sequence[Request]:
        """Not withdrawn or closed, without a grant or a refusal, asked after that, oldest first."""
        ...

    async def reviews(self, request_id: str) -> Sequence[Review]:
        """In the order of their time."""
        ...

    async def grants_between(self, ended_after: datetime, ended_before: datetime) -> Sequence[Grant]:
        """Not revoked, with their end after the one and not after the other; soonest end first, at most 500."""
        ...

    async def unheard(self, notice_ids: Sequence[str]) -> frozenset[str]:
        """Those of which no notice was ever kept."""
        ...

    async def broken_glass(self) -> Sequence[Request]:
        """Requests by break-glass that nobody has answered for yet, oldest first; at most 100."""
        ...

    async def last_used(self, grant_ids: Sequence[str]) -> Mapping[str, datetime]:
        """When a session last began, or was last live, under each of these grants; nothing for those never used."""
        ...

    async def due_notices(self, now: datetime, limit: int = 50) -> Sequence[KeptNotice]:
        """Those that are due and not done, longest due first."""
        ...

    async def certificate(self, serial: int) -> IssuedCertificate:
        """Raises `NotFound`."""
        ...

    async def proof(self, serial: int) -> Proof:
        """The same, with what it stands on. Raises `NotFound`."""
        ...

    async def session(self, session_id: str) -> Session:
        """By id, or by the beginning of one that only one session has. Raises `NotFound`, `Refused`."""
        ...

    async def sessions(
        self, *, live: bool | None = None, identity: str | None = None, target: str | None = None, limit: int = 200
    ) -> Sequence[Session]:
        """Newest first. ``identity`` is part of a display name or id, ``target`` of a full name."""
        ...

    async def sessions_of_node(self, node: str) -> Sequence[Session]:
        """The sessions of ``node`` that have no end yet."""
        ...

    async def chat_link(self, platform: str, workspace: str, user: str) -> ChatLink:
        """Raises `NotFound`."""
        ...

    async def chat_links_of(self, identity: IdentityId) -> Sequence[ChatLink]:
        """Every account that the identity has linked, in the order of linking."""
        ...

    async def chat_posts(self, platform: str, request_id: str) -> Mapping[str, str]:
        """What a platform's messages about a request are called, by their part."""
        ...

    async def events(self, wanted: EventFilter) -> Sequence[Event]:
        """In order of ``seq``: the first ``limit`` after ``after_seq``, or without ``after_seq`` the last ``limit``."""
        ...

    async def close(self) -> None:
        """Idempotent."""
        ...


# ------------------------------------------------------------------------------------------------------- coordination


@dataclass(frozen=True, slots=True)
class Revocation:
    """Something ended: every node looks at its sessions again, and cuts those concerned.

    One that names neither says that something changed: every session is asked about again.
    """

    grant_id: str | None = None
    identity: IdentityId | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """How many there were, and how long it is until they are forgotten."""

    number: int
    left: timedelta


class Coordination(Protocol):
    """What nodes tell each other. Nothing here is the truth: losing all of it denies, and never allows."""

    async def put_once(self, key: str, value: bytes, lifetime: timedelta) -> bool:
        """Keep ``value`` for ``lifetime`` unless the key is there already; whether it was kept."""
        ...

    async def take(self, key: str) -> bytes | None:
        """The value, exactly once: of two that take at the same time one gets it."""
        ...

    async def peek(self, key: str) -> bytes | None:
        """The value, which stays as it is: what is seen may be taken by another the next moment."""
        ...

    async def holds(self, key: str) -> bool:
        """Whether the key was put, and is neither taken nor lapsed; it stays as it is."""
        ...

    async def enter(
        self, identity: IdentityId, held: Occupied, lifetime: timedelta, *, crossing: bool
    ) -> Sequence[Occupied]:
        """Register a live session unless one in another tier is live; atomic over all nodes (law 4).

        Returns:
            The sessions of other tiers that stand in the way: empty means it is registered. With ``crossing`` it is
            registered whatever else is live, and empty is returned.
        """
        ...

    async def keep(self, identity: IdentityId, session_id: str, lifetime: timedelta) -> bool:
        """Prolong a registration of this node; whether it still stands. One that has lapsed is not revived: its session
        is no longer seen by law 4 and must end.
        """
        ...

    async def leave(self, identity: IdentityId, session_id: str) -> None:
        """Idempotent."""
        ...

    async def occupied(self, identity: IdentityId) -> Sequence[Occupied]:
        """The identity's live sessions on every node."""
        ...

    async def count(self, key: str, window: timedelta) -> Tally:
        """Count one more under ``key``, within the window that its first one opened."""
        ...

    async def forgive(self, key: str) -> None:
        """Count one less under ``key``, and never less than none; its window stays as it is."""
        ...

    async def revoke(self, revocation: Revocation) -> None:
        """Tell every node, this one too."""
        ...

    def revocations(self) -> AsyncIterator[Revocation | None]:
        """Each revocation from now on. None means some may have been missed: read the store again."""
        ...

    async def lease(self, name: str, owner: str, lifetime: timedelta) -> bool:
        """Take or prolong a lease; whether ``owner`` has it now."""
        ...

    async def close(self) -> None:
        """Idempotent; gives up this node's leases."""
        ...


# ------------------------------------------------------------------------------------------------ place, policy, keys


class Locator(Protocol):
    """Where an address is."""

    def locate(self, address: Address) -> Place:
        """Never raises: no data gives a place of unknown country, which is outside every fence."""
        ...


class Policies(Protocol):
    """What the written policies say. Anything but a clean Allow is `NotPermitted`."""

    def may_connect(self, access: Access, grant: Grant, now: datetime) -> Ruling:
        """Whether ``access`` is permitted when ``grant`` alone is linked."""
        ...

    def may(
        self,
        power: Power,
        identity: Identity,
        place: Place | None,
        now: datetime,
        *,
        target: Target | None = None,
        login: str | None = None,
        scope: Scope | None = None,
    ) -> Ruling:
        """Whether ``identity`` has ``power`` over a target (and login), a whole scope, or with neither over everything.

        ``place`` is None where the person's own address cannot be known (a chat command reaches us from the chat).
        """
        ...


class Signer(Protocol):
    """Holds the bastion's private keys and signs with them. Keys never leave it."""

    async def sign_access(self, scope: Scope, data: bytes) -> bytes:
        """An SSH signature blob (RFC 4253, section 6.6) by the scope's *access* key, which the bastion alone trusts."""
        ...

    async def sign_target(self, scope: Scope, data: bytes) -> bytes:
        """The same by the scope's *target* key, which the scope's targets alone trust."""
        ...

    def access_authority(self, scope: Scope) -> bytes:
        """Public key blob (RFC 4253, section 6.6) of the scope's access key. Raises `NotFound`."""
        ...

    def target_authority(self, scope: Scope) -> bytes:
        """Public key blob of the scope's target key. Raises `NotFound`."""
        ...


# ---------------------------------------------------------------------------------------------------------- recording


class Recorder(Protocol):
    """One session's recording while it is written. Every call returns after the bytes are the operating system's:
    from then on a killed bastion loses nothing of them (law 6). ``at`` is seconds since the session began. What is not
    kept in full (see `Recordings.start`) has its size and digest before the call returns, and a marker that says so.

    Raises:
        Unavailable: it could not be written; the caller delivers nothing and ends the session.
    """

    def output(self, at: float, data: bytes) -> None:
        """Bytes on their way to the client."""
        ...

    def error_output(self, at: float, data: bytes) -> None:
        """Bytes on their way to the client's standard error (no pty)."""
        ...

    def input(self, at: float, data: bytes, *, typed: bool) -> None:
        """Bytes on their way to the target. ``typed`` ones (a pty) are masked: what echo shows is in the output."""
        ...

    def resize(self, at: float, columns: int, rows: int) -> None: ...

    def mark(self, at: float, label: str) -> None:
        """A marker: a warning shown, the reason of the end."""
        ...

    def underway(self, at: float, file: Underway) -> None:
        """How far a file has come, of which more bytes are on their way."""
        ...

    def finish(self, at: float, end: End, exit_status: int | None) -> None:
        """Close with a signed manifest, synced to disk. Idempotent."""
        ...


class Recordings(Protocol):
    """Where recordings live: in their region's storage under their region's key (law 8)."""

    def start(
        self, session: Session, *, columns: int, rows: int, term: str, at: datetime, full_until: int | None = None
    ) -> Recorder:
        """``full_until``: bytes of each stream that are kept in full; of more, size and digest. None keeps everything.

        Raises:
            Unavailable: nothing was opened.
        """
        ...

    def seal_interrupted(self, session: Session) -> None:
        """Close the recording of a session whose node died, with everything that it holds. Idempotent."""
        ...

    def transcript(self, session: Session) -> AsyncIterator[bytes]:
        """asciicast v3 (UTF-8 lines) of one recording, live or closed, exactly as delivered.

        Raises:
            NotFound: there is no recording here.
            Unavailable: it was altered, cut or reordered; the sentence says where. Everything before was yielded.
        """
        ...

    def follow(self, session: Session) -> AsyncIterator[bytes]:
        """The same, and then each line as it is recorded, until the recording is closed. Raises as `transcript`."""
        ...


# -------------------------------------------------------------------------------------------------------------- people


class Notices(Protocol):
    """One way of telling people what happened: a chat, e-mail, a webhook."""

    async def tell(self, notice: Notice) -> None:
        """Tell those concerned; what is not in the notice is read as it is now.

        A notice is told at least once: after a crash the same one, with the same ``id``, may come again.

        Raises:
            Unavailable: they could not be told now; it is tried again later.
        """
        ...
