"""Values to rows and back; what is read is equal to what was written."""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_network
from typing import Any

from bastion.adapters.store.columns import check_text
from bastion.core.apitoken import ApiToken, Use
from bastion.core.audit import Event
from bastion.core.geofence import Network
from bastion.core.grant import Basis, Grant, Request, Review, Verdict
from bastion.core.hours import Hours
from bastion.core.identity import Identity, IdentityId, IdentityKind, Strength, fold_email
from bastion.core.notice import Notice, from_json, to_json
from bastion.core.policy import Action, Demands
from bastion.core.session import End, Session
from bastion.core.target import Scope
from bastion.core.ticket import TicketPattern
from bastion.ports import ChatLink, IssuedCertificate, KeptLogin, KeptNotice

Values = dict[str, Any]
"""One row to be written, by column name; or what a statement is asked with, by its own names."""

Row = Any
"""One row that was read, its columns as attributes: each driver has a class of its own for it."""

MAX_KEY = 255
"""Characters of an event's value that are indexed; PostgreSQL's B-tree refuses entries above 2,704 bytes, and an event
must be kept however long the name is that a peer made up. The event's line has all of it."""

MAX_EMAIL = 254
"""Characters (RFC 5321, section 4.5.3.1.3, without the angle brackets); a longer one is kept, and finds nobody."""


def event_values(event: Event) -> Values:
    """The canonical line, and copies of what is searched. ``seq`` is given where it is written."""
    return {
        "line": check_text(event.to_json()),
        "kind": event.kind.value,
        "at": event.at,
        "who": folded(event.display, *(str(one) for one in (event.identity, event.actor) if one is not None)),
        "scope": str(event.scope) if event.scope is not None else None,
        "target": key(event.target),
        "session_id": key(event.session_id),
        "grant_id": key(event.grant_id),
    }


def folded(*parts: str) -> str:
    """Text to be searched without regard to case, the same way on both dialects."""
    return "\n".join(parts).replace("\0", "\N{REPLACEMENT CHARACTER}").casefold()


def key(text: str | None) -> str | None:
    """What an index holds of an event's value."""
    return None if text is None else text[:MAX_KEY].replace("\0", "\N{REPLACEMENT CHARACTER}")


def read_event(row: Row) -> Event:
    return Event.from_json(row.line, row.seq)


def identity_values(identity: Identity) -> Values:
    return {
        "issuer": identity.id.issuer,
        "subject": identity.id.subject,
        "email": identity.email,
        "name": identity.name,
        "groups": identity.groups,
        "kind": identity.kind.value,
        **_strength_values(identity.strength),
    }


def searchable_email(identity: Identity) -> str | None:
    """The e-mail as `Identity.is_same_person_as` compares it."""
    folded_email = fold_email(identity.email or "")
    return folded_email if 0 < len(folded_email) <= MAX_EMAIL else None


def read_identity(row: Row) -> Identity:
    return Identity(
        id=IdentityId(row.issuer, row.subject),
        email=row.email,
        name=row.name,
        groups=row.groups,
        kind=IdentityKind(row.kind),
        authenticated_at=row.authenticated_at,
        amr=row.amr,
        acr=row.acr,
    )


def _strength_values(strength: Strength) -> Values:
    return {"authenticated_at": strength.authenticated_at, "amr": strength.amr, "acr": strength.acr}


def _read_strength(row: Row) -> Strength:
    return Strength(row.authenticated_at, row.amr, row.acr)


def request_values(request: Request) -> Values:
    return {
        "id": request.id,
        "asker_issuer": request.asker.issuer,
        "asker_subject": request.asker.subject,
        "beneficiary_issuer": request.beneficiary.issuer,
        "beneficiary_subject": request.beneficiary.subject,
        **_permission_values(request),
        "duration": request.duration,
        "asked_at": request.asked_at,
        "demands_approvals": request.demands.approvals,
        "demands_reviewers": request.demands.reviewers,
        "demands_max_duration": request.demands.max_duration,
        "demands_mfa": request.demands.mfa,
        "withdrawn_at": request.withdrawn_at,
        "demands_automatic": request.demands.automatic,
        "demands_min_reason": request.demands.min_reason,
        "demands_tickets": [str(pattern) for pattern in request.demands.tickets],
        "demands_hours": [str(hours) for hours in request.demands.hours],
        "starts_at": request.starts_at,
        "network": _network_text(request.network),
        "ticket": request.ticket,
        "extends": request.extends,
        "break_glass": request.break_glass,
        "closed_at": request.closed_at,
        "beside": request.beside,
    }


def read_request(row: Row) -> Request:
    return Request(
        id=row.id,
        asker=IdentityId(row.asker_issuer, row.asker_subject),
        beneficiary=IdentityId(row.beneficiary_issuer, row.beneficiary_subject),
        scope=Scope(row.environment, row.region),
        targets=row.targets,
        logins=row.logins,
        actions=frozenset(map(Action, row.actions)),
        duration=row.duration,
        reason=row.reason,
        asked_at=row.asked_at,
        demands=Demands(
            approvals=row.demands_approvals,
            reviewers=row.demands_reviewers,
            max_duration=row.demands_max_duration,
            mfa=row.demands_mfa,
            automatic=row.demands_automatic,
            min_reason=row.demands_min_reason,
            tickets=frozenset(map(TicketPattern.parse, row.demands_tickets)),
            hours=frozenset(map(Hours.parse, row.demands_hours)),
        ),
        crossing=row.crossing,
        withdrawn_at=row.withdrawn_at,
        starts_at=row.starts_at,
        network=_read_network(row.network),
        paths=row.paths,
        ticket=row.ticket,
        extends=row.extends,
        break_glass=row.break_glass,
        closed_at=row.closed_at,
        beside=row.beside,
    )


def _network_text(network: Network | None) -> str | None:
    return None if network is None else str(network)


def _read_network(text: str | None) -> Network | None:
    return None if text is None else ip_network(text)


def _permission_values(asked_or_given: Request | Grant) -> Values:
    return {
        "environment": asked_or_given.scope.environment,
        "region": asked_or_given.scope.region,
        "targets": asked_or_given.targets,
        "logins": asked_or_given.logins,
        "actions": asked_or_given.actions,
        "paths": asked_or_given.paths,
        "reason": asked_or_given.reason,
        "crossing": asked_or_given.crossing,
    }


def review_values(review: Review) -> Values:
    return {
        "request_id": review.request_id,
        **identity_values(review.reviewer),
        "verdict": review.verdict.value,
        "at": review.at,
        "note": review.note,
    }


def read_review(row: Row) -> Review:
    return Review(row.request_id, read_identity(row), Verdict(row.verdict), row.at, row.note)


def grant_values(grant: Grant) -> Values:
    return {
        "id": grant.id,
        "request_id": grant.request_id,
        "issuer": grant.identity.issuer,
        "subject": grant.identity.subject,
        **_permission_values(grant),
        "starts_at": grant.starts_at,
        "ends_at": grant.ends_at,
        "approved_by": grant.approved_by,
        "revoked_at": grant.revoked_at,
        "network": _network_text(grant.network),
        "basis": grant.basis.value,
    }


def read_grant(row: Row) -> Grant:
    return Grant(
        id=row.id,
        request_id=row.request_id,
        identity=IdentityId(row.issuer, row.subject),
        scope=Scope(row.environment, row.region),
        targets=row.targets,
        logins=row.logins,
        actions=frozenset(map(Action, row.actions)),
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        approved_by=row.approved_by,
        reason=row.reason,
        crossing=row.crossing,
        revoked_at=row.revoked_at,
        network=_read_network(row.network),
        paths=row.paths,
        basis=Basis(row.basis),
    )


def certificate_values(certificate: IssuedCertificate) -> Values:
    return {
        "serial": certificate.serial,
        "fingerprint": certificate.fingerprint,
        "issuer": certificate.identity.issuer,
        "subject": certificate.identity.subject,
        "environment": certificate.scope.environment,
        "region": certificate.scope.region,
        "grant_id": certificate.grant_id,
        "address": certificate.address,
        "valid_after": certificate.valid_after,
        "valid_before": certificate.valid_before,
        **_strength_values(certificate.strength),
    }


def read_certificate(row: Row) -> IssuedCertificate:
    return IssuedCertificate(
        serial=row.serial,
        fingerprint=row.fingerprint,
        identity=IdentityId(row.issuer, row.subject),
        scope=Scope(row.environment, row.region),
        grant_id=row.grant_id,
        address=row.address,
        valid_after=row.valid_after,
        valid_before=row.valid_before,
        strength=_read_strength(row),
    )


def session_values(session: Session) -> Values:
    return {
        "id": session.id,
        "node": session.node,
        "issuer": session.identity.issuer,
        "subject": session.identity.subject,
        "display": session.display,
        "who": folded(session.display, str(session.identity)),
        "target": session.target,
        "environment": session.scope.environment,
        "region": session.scope.region,
        "login": session.login,
        "action": session.action.value,
        "command": session.command,
        "grant_id": session.grant_id,
        "certificate_serial": session.certificate_serial,
        "address": session.address,
        "country": session.country,
        "started_at": session.started_at,
        "until": session.until,
        "ended_at": session.ended_at,
        "ending": session.end.value if session.end is not None else None,
        "exit_status": session.exit_status,
    }


def read_session(row: Row) -> Session:
    return Session(
        id=row.id,
        node=row.node,
        identity=IdentityId(row.issuer, row.subject),
        display=row.display,
        target=row.target,
        scope=Scope(row.environment, row.region),
        login=row.login,
        action=Action(row.action),
        command=row.command,
        grant_id=row.grant_id,
        certificate_serial=row.certificate_serial,
        address=row.address,
        country=row.country,
        started_at=row.started_at,
        until=row.until,
        ended_at=row.ended_at,
        end=End(row.ending) if row.ending is not None else None,
        exit_status=row.exit_status,
    )


def link_values(link: ChatLink) -> Values:
    return {
        "platform": link.platform,
        "workspace": link.workspace,
        "account": link.user,
        "issuer": link.identity.issuer,
        "subject": link.identity.subject,
        "linked_at": link.linked_at,
    }


def read_link(row: Row) -> ChatLink:
    return ChatLink(row.platform, row.workspace, row.account, IdentityId(row.issuer, row.subject), row.linked_at)


def login_values(login: KeptLogin) -> Values:
    return {
        "issuer": login.identity.issuer,
        "subject": login.identity.subject,
        "sid": login.sid,
        "sealed": login.sealed,
        "at": login.at,
        "asked_at": login.asked_at,
        "confirmed_at": login.confirmed_at,
    }


def read_login(row: Row) -> KeptLogin:
    identity = IdentityId(row.issuer, row.subject)
    return KeptLogin(identity, row.sid, row.sealed, row.at, row.asked_at, row.confirmed_at)


def token_values(token: ApiToken) -> Values:
    return {
        "id": token.id,
        "issuer": token.owner.issuer,
        "subject": token.owner.subject,
        "name": token.name,
        "uses": frozenset(use.value for use in token.uses),
        "network": str(token.network),
        "digest": token.digest,
        **_strength_values(token.strength),
        "made_at": token.made_at,
        "ends_at": token.ends_at,
        "revoked_at": token.revoked_at,
    }


def read_token(row: Row) -> ApiToken:
    return ApiToken(
        id=row.id,
        owner=IdentityId(row.issuer, row.subject),
        name=row.name,
        uses=frozenset(map(Use, row.uses)),
        network=ip_network(row.network),
        digest=bytes(row.digest),
        strength=_read_strength(row),
        made_at=row.made_at,
        ends_at=row.ends_at,
        revoked_at=row.revoked_at,
    )


def notice_values(notice: Notice, due: datetime) -> Values:
    return {"id": notice.id, "line": to_json(notice), "due": due, "told": frozenset(), "tries": 0}


def read_notice(row: Row) -> KeptNotice:
    return KeptNotice(from_json(row.line), row.due, row.told, row.tries)
