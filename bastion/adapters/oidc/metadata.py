"""What an issuer says about itself (OpenID Connect Discovery 1.0), checked and cut down to what we use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


def discovery_url(issuer: str) -> str:
    """Where the metadata of ``issuer`` is (Discovery 1.0, section 4: the path is appended, not replaced)."""
    return issuer.rstrip("/") + "/.well-known/openid-configuration"


def read_metadata(document: Mapping[str, Any], issuer: str) -> Metadata:
    """The metadata in a discovery document.

    Raises:
        Unavailable: it is another issuer's (section 4.3), or lacks something a safe login needs.
    """
    if document.get("issuer") != issuer:
        raise Unavailable(
            "The identity provider calls itself by another name than the configuration does.",
            detail=f"configured {issuer!r}, metadata says {document.get('issuer')!r}",
        )
    if "code" not in _strings(document, "response_types_supported", ["code"]):
        raise _lacks("the authorization code flow", document.get("response_types_supported"))
    if "S256" not in _strings(document, "code_challenge_methods_supported", ["S256"]):
        raise _lacks("PKCE with S256", document.get("code_challenge_methods_supported"))
    # RS256 is what every provider must have (Discovery 1.0, section 3: id_token_signing_alg_values_supported).
    algorithms = ALGORITHMS & set(_strings(document, "id_token_signing_alg_values_supported", ["RS256"]))
    if not algorithms:
        raise _lacks("a signature we accept", document.get("id_token_signing_alg_values_supported"))
    auth_methods = _strings(document, "token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return Metadata(
        authorization_endpoint=check_url(document.get("authorization_endpoint"), what="authorization_endpoint"),
        token_endpoint=check_url(document.get("token_endpoint"), what="token_endpoint"),
        jwks_uri=check_url(document.get("jwks_uri"), what="jwks_uri"),
        algorithms=frozenset(algorithms),
        says_issuer=document.get("authorization_response_iss_parameter_supported") is True,
        basic_auth="client_secret_basic" in auth_methods,
    )


def _strings(document: Mapping[str, Any], name: str, default: list[str]) -> list[str]:
    value = document.get(name, default)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _lacks(what: str, said: object) -> Unavailable:
    return Unavailable(f"The identity provider does not offer {what}.", detail=f"its metadata says {said!r}")
