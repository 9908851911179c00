"""What each operation of the API takes of a token: read from top to bottom it is all that a script may do."""

from __future__ import annotations

from bastion.core.apitoken import Use

USES: dict[tuple[str, str], frozenset[Use]] = {
    ("get", "/requests"): frozenset({Use.READ}),
    ("get", "/requests/{id}"): frozenset({Use.READ}),
    ("get", "/break-glass"): frozenset({Use.READ}),
    ("get", "/grants"): frozenset({Use.READ}),
    ("get", "/access"): frozenset({Use.READ}),
    ("get", "/access/review"): frozenset({Use.READ}),
    ("get", "/whoami"): frozenset({Use.READ}),
    ("post", "/requests"): frozenset({Use.REQUEST}),
    ("post", "/requests/{id}/withdraw"): frozenset({Use.REQUEST}),
    ("post", "/requests/{id}/review"): frozenset({Use.REVIEW}),
    ("post", "/requests/{id}/acknowledge"): frozenset({Use.REVIEW}),
    # Each is a request that counts as a review, too, of whoever may give one.
    ("post", "/grants"): frozenset({Use.REQUEST, Use.REVIEW}),
    ("post", "/grants/{id}/extend"): frozenset({Use.REQUEST, Use.REVIEW}),
    ("post", "/grants/{id}/revoke"): frozenset({Use.REVOKE}),
    ("post", "/grants/revoke"): frozenset({Use.REVOKE}),
    ("get", "/ssh"): frozenset({Use.CONNECT}),
    ("post", "/certificates"): frozenset({Use.CONNECT}),
    ("get", "/sessions"): frozenset({Use.AUDIT}),
    ("get", "/sessions/{id}"): frozenset({Use.AUDIT}),
    ("get", "/sessions/{id}/recording"): frozenset({Use.AUDIT}),
    ("get", "/events"): frozenset({Use.AUDIT}),
}
"""By method and path. What is not here takes a login: no token breaks the glass, logs out, or makes a token."""


def uses_of(method: str, path: str) -> frozenset[Use]:
    """Of the route ``/api/v1…``; none of what is not for tokens."""
    return USES.get((method.lower(), path.removeprefix("/api/v1")), frozenset())
