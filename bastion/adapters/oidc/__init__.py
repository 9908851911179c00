"""OpenID Connect: an issuer's word for who somebody is, by authorization code and PKCE."""

from bastion.adapters.oidc.provider import OidcProvider

__all__ = ["OidcProvider"]
