"""What an issuer says about itself (OpenID Connect Discovery 1.0), checked and cut down to what we use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bastion.adapters.oidc.fetch import check_url
from bastion.core.errors import Unavailable

ALGORITHMS = frozenset(
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
)
"""Signatures by a private key that only the issuer has. Never ``none``, never HS256: for those a verifier can sign."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """One issuer's endpoints and habits."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    algorithms: frozenset[str]
    """What its ID tokens may be signed with: what it says, as far as we accept it; never empty."""
    says_issuer: bool
    """Whether its answers carry ``iss`` (RFC 9207, section 3), so that one without is forged."""
    basic_auth: bool
    """Whether client secrets go into the Authorization header, else into the form."""
    takes_claims: bool = False
    """Whether single claims can be asked for (OpenID Connect Core 1.0, section 5.5)."""
    end_session_endpoint: str | None = None
    """Where a browser logs out there, too (OpenID Connect RP-Initiated Logout 1.0, section 2.1)."""


@dataclass(frozen=True, slots=True)
class SigningMetadata:
    """What is needed of an issuer whose tokens are taken, and at which nobody logs in."""

    jwks_uri: str
    algorithms: frozenset[str]


def discovery_url(issuer: str) -> str:
    """Where the metadata of ``issuer`` is (Discovery 1.0, section 4: the path is appended, not replaced)."""
    return issuer.rstrip("/") + "/.well-known/openid-configuration"


def read_metadata(document: Mapping[str, Any], issuer: str) -> Metadata:
    """The metadata in a discovery document.

    Raises:
        Unavailable: it is another issuer's (section 4.3), or lacks something a safe login needs.
    """
    _check_issuer(document, issuer)
    if "code" not in _strings(document, "response_types_supported", ["code"]):
        raise _lacks("the authorization code flow", document.get("response_types_supported"))
    if "S256" not in _strings(document, "code_challenge_methods_supported", ["S256"]):
        raise _lacks("PKCE with S256", document.get("code_challenge_methods_supported"))
    end_session = document.get("end_session_endpoint")
    auth_methods = _strings(document, "token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return Metadata(
        authorization_endpoint=check_url(document.get("authorization_endpoint"), what="authorization_endpoint"),
        token_endpoint=check_url(document.get("token_endpoint"), what="token_endpoint"),
        jwks_uri=check_url(document.get("jwks_uri"), what="jwks_uri"),
        algorithms=_algorithms(document),
        says_issuer=document.get("authorization_response_iss_parameter_supported") is True,
        basic_auth="client_secret_basic" in auth_methods,
        takes_claims=document.get("claims_parameter_supported") is True,
        end_session_endpoint=None if end_session is None else check_url(end_session, what="end_session_endpoint"),
    )


def read_workload_metadata(document: Mapping[str, Any], issuer: str) -> SigningMetadata:
    """The keys and algorithms of an issuer of workload tokens; CI systems and clusters have no login to offer.

    Raises:
        Unavailable: it is another issuer's, or says nothing that can be used.
    """
    _check_issuer(document, issuer)
    return SigningMetadata(check_url(document.get("jwks_uri"), what="jwks_uri"), _algorithms(document))


def read_transmitter_metadata(document: Mapping[str, Any], issuer: str) -> SigningMetadata:
    """The keys of a transmitter of security events (Shared Signals Framework 1.0, section 7.1.1), which names no
    algorithms: any that we accept. Raises as `read_workload_metadata` does.
    """
    _check_issuer(document, issuer)
    return SigningMetadata(check_url(document.get("jwks_uri"), what="jwks_uri"), ALGORITHMS)


def transmitter_url(issuer: str) -> str:
    """Where a transmitter's metadata is (section 7.1: the well-known part goes between host and path)."""
    parts = urlsplit(issuer)
    return f"{parts.scheme}://{parts.netloc}/.well-known/ssf-configuration{parts.path.rstrip('/')}"


def _check_issuer(document: Mapping[str, Any], issuer: str) -> None:
    if document.get("issuer") != issuer:
        raise Unavailable(
            "The identity provider calls itself by another name than the configuration does.",
            detail=f"configured {issuer!r}, metadata says {document.get('issuer')!r}",
        )


def _algorithms(document: Mapping[str, Any]) -> frozenset[str]:
    # RS256 is what every provider must have (Discovery 1.0, section 3: id_token_signing_alg_values_supported).
    algorithms = ALGORITHMS & set(_strings(document, "id_token_signing_alg_values_supported", ["RS256"]))
    if not algorithms:
        raise _lacks("a signature we accept", document.get("id_token_signing_alg_values_supported"))
    return algorithms


def _strings(document: Mapping[str, Any], name: str, default: list[str]) -> list[str]:
    value = document.get(name, default)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _lacks(what: str, said: object) -> Unavailable:
    return Unavailable(f"The identity provider does not offer {what}.", detail=f"its metadata says {said!r}")
