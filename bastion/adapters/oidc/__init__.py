"""OpenID Connect: an issuer's word for who somebody is, for how long, and which workloads and events are its own."""

from bastion.adapters.oidc.event_token import EventTransmitter
from bastion.adapters.oidc.provider import OidcProvider
from bastion.adapters.oidc.workload_token import WorkloadIssuer

__all__ = ["EventTransmitter", "OidcProvider", "WorkloadIssuer"]
