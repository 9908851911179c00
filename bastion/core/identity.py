"""Who somebody is: the canonical identity made from claims that an issuer signed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from bastion.core.errors import Unauthenticated

MAX_SUBJECT = 255
"""ASCII characters (OpenID Connect Core 1.0, section 2: `sub`)."""

MAX_ACR = 255
"""Characters of an `acr` that is kept: an absolute URI or a registered name (OpenID Connect Core 1.0, section 2)."""

MFA = "mfa"
"""The authentication method reference that says several factors were used (RFC 8176, section 2)."""

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


class IdentityKind(StrEnum):
    """People review; workloads never do."""

    PERSON = "person"
    WORKLOAD = "workload"


@dataclass(frozen=True, slots=True, order=True)
class IdentityId:
    """The only name that decides anything: issuer and subject. E-mail addresses are for display.

    Written ``issuer#subject``; an issuer never has a fragment (OpenID Connect Discovery 1.0, section 3), so the first
    ``#`` separates the two.
    """

    issuer: str
    subject: str

    def __str__(self) -> str:
        return f"{self.issuer}#{self.subject}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``issuer#subject``.

        Raises:
            ValueError: one of the two is missing.
        """
        issuer, separator, subject = text.partition("#")
        if not (issuer and separator and subject):
            raise ValueError(f"{text!r} is not an identity; it is written issuer#subject")
        return cls(issuer, subject)


@dataclass(frozen=True, slots=True)
class VerifiedClaims:
    """Claims of a token whose signature, issuer, audience, times and nonce were verified.

    Only the verifier in `bastion.adapters.oidc` makes one; until then a token is called ``unverified_token``.
    """

    issuer: str
    subject: str
    claims: Mapping[str, Any]
    verified_at: datetime


@dataclass(frozen=True, slots=True)
class Proof:
    """What an issuer gave for a code: verified claims, and what it is asked with later."""

    claims: VerifiedClaims
    id_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)

    @property
    def sid(self) -> str:
        """The issuer's name for its own session; empty when it gives none that can be kept."""
        sid = self.claims.claims.get("sid")
        return sid if isinstance(sid, str) and len(sid) <= MAX_SUBJECT and sid.isprintable() else ""


@dataclass(frozen=True, slots=True)
class StepUp:
    """A login that must be made anew. ``acr_values`` are the issuer's own words for how, any of which will do (OpenID
    Connect Core 1.0, section 3.1.2.1), and ``amr`` methods it has to be made by; without them it is made as ever.
    """

    acr_values: tuple[str, ...] = ()
    amr: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Renewal:
    """What an issuer gave for a refresh token: it stands by the login. What it left out is None and stays as it was."""

    claims: VerifiedClaims | None
    id_token: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ClaimMapping:
    """Which claims of an issuer carry what, and which of its groups count."""

    groups: str = "groups"
    name: str = "name"
    group_prefix: str = ""
    """Put before every group, so that two issuers cannot both say ``admins``."""
    only_groups: frozenset[str] | None = None
    """The issuer's groups that count, as it writes them; None is all of them, empty is none."""
    mfa: frozenset[str] = frozenset()
    """Values of ``acr`` by which this issuer says that several factors were used."""


@dataclass(frozen=True, slots=True)
class Strength:
    """How and when somebody proved who they are: of one login, and of whatever was got with it."""

    authenticated_at: datetime
    amr: frozenset[str] = frozenset()
    """Authentication method references (RFC 8176)."""
    acr: str | None = None
    """The issuer's own word for the whole (OpenID Connect Core 1.0, section 2)."""

    def to_json(self) -> list[Any]:
        """As it is kept for minutes, between one part of a login and the next."""
        return [self.authenticated_at.timestamp(), sorted(self.amr), self.acr]

    @classmethod
    def from_json(cls, value: list[Any]) -> Self:
        authenticated_at, amr, acr = value
        return cls(datetime.fromtimestamp(authenticated_at, tz=UTC), frozenset(amr), acr)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody proved to be, and how.

    ``email`` is present only when the issuer says it verified it. It is shown, and it is compared for one purpose: two
    identities with the same verified e-mail are the same person when it comes to approving oneself.
    """

    id: IdentityId
    email: str | None
    name: str | None
    groups: frozenset[str]
    kind: IdentityKind
    authenticated_at: datetime
    amr: frozenset[str] = frozenset()
    acr: str | None = None

    @property
    def strength(self) -> Strength:
        """Of the login that this is known from."""
        return Strength(self.authenticated_at, self.amr, self.acr)

    def proven_by(self, strength: Strength) -> Identity:
        """The same somebody, by another of their logins: what it was not strong enough for, no other is for it."""
        return replace(self, authenticated_at=strength.authenticated_at, amr=strength.amr, acr=strength.acr)

    @property
    def display(self) -> str:
        """What people read: the verified e-mail, else the subject."""
        return self.email or self.id.subject

    def is_same_person_as(self, other: Identity) -> bool:
        """Whether both are one human being: the same id, or the same verified e-mail under another issuer."""
        if self.id == other.id:
            return True
        return self.email is not None and other.email is not None and fold_email(self.email) == fold_email(other.email)


def identity_from(claims: VerifiedClaims, mapping: ClaimMapping) -> Identity:
    """The identity that verified claims describe.

    An e-mail that is not ``email_verified`` or is not one plain address is dropped. Missing groups are no groups.
    Nothing is kept that a terminal could obey or a reader could not see.

    Raises:
        Unauthenticated: the subject is empty, too long or not printable, the issuer has a fragment, or the time of the
            login cannot be read; nobody was logged in.
    """
    if not claims.subject or len(claims.subject) > MAX_SUBJECT or not claims.subject.isprintable():
        raise Unauthenticated("The identity provider sent a subject that cannot be used.", detail=repr(claims.subject))
    if "#" in claims.issuer:  # two identities would be written alike (IdentityId)
        raise Unauthenticated("The identity provider has a name that cannot be used.", detail=repr(claims.issuer))
    email = claims.claims.get("email")
    verified = claims.claims.get("email_verified") is True
    if not (verified and isinstance(email, str) and _EMAIL.fullmatch(email) and email.isprintable()):
        email = None
    name = claims.claims.get(mapping.name)
    groups = claims.claims.get(mapping.groups)
    if not isinstance(groups, list):
        groups = []
    return Identity(
        id=IdentityId(claims.issuer, claims.subject),
        email=email,
        name="".join(c for c in name if c.isprintable()) if isinstance(name, str) else None,
        groups=frozenset(mapping.group_prefix + g for g in groups if isinstance(g, str) and _counts(g, mapping)),
        kind=IdentityKind.PERSON,
        authenticated_at=_authenticated_at(claims),
        amr=_methods(claims, mapping),
        acr=_context(claims),
    )


def _counts(group: str, mapping: ClaimMapping) -> bool:
    return group.isprintable() and (mapping.only_groups is None or group in mapping.only_groups)


def _methods(claims: VerifiedClaims, mapping: ClaimMapping) -> frozenset[str]:
    """``amr`` (RFC 8176), and ``mfa`` among it when ``acr`` has one of the values that mean it here."""
    amr = claims.claims.get("amr")
    methods = frozenset(m for m in amr if isinstance(m, str)) if isinstance(amr, list) else frozenset()
    return methods | {MFA} if _context(claims) in mapping.mfa else methods


def _context(claims: VerifiedClaims) -> str | None:
    """``acr``, unless it is nothing that could be named in a policy."""
    acr = claims.claims.get("acr")
    return acr if isinstance(acr, str) and 0 < len(acr) <= MAX_ACR and acr.isprintable() else None


def _authenticated_at(claims: VerifiedClaims) -> datetime:
    """``auth_time`` (OpenID Connect Core 1.0, section 2), never later than the verification, which stands in for none.

    One that is there and cannot be read is not taken for none: an old login would pass for a fresh one.
    """
    match claims.claims.get("auth_time"):
        case None:
            return claims.verified_at
        case int() | float() as seconds if not isinstance(seconds, bool):
            try:
                return min(claims.verified_at, datetime.fromtimestamp(seconds, tz=claims.verified_at.tzinfo))
            except (ValueError, OverflowError, OSError) as error:
                raise Unauthenticated("The identity provider sent a login time that cannot be.") from error
        case other:
            raise Unauthenticated("The identity provider sent a login time that cannot be read.", detail=repr(other))


def fold_email(email: str) -> str:
    """``email`` as it is compared: however it was capitalised or composed (Unicode NFKC)."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", email).casefold())
