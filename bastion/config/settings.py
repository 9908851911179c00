"""The settings, frozen, in the shape of the file; config/bastion.yaml shows every one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    StrictBool,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.json_schema import GenerateJsonSchema

from bastion.config import hostkeys, values
from bastion.config.secret import (
    CredentialSecret,
    EnvSecret,
    FileSecret,
    Plain,
    Secret,
    parse_key,
    parse_secret,
    parse_url,
)
from bastion.config.values import HostPort
from bastion.core.algorithms import LEGACY
from bastion.core.geofence import Fence, Network
from bastion.core.identity import ClaimMapping
from bastion.core.limits import Limits
from bastion.core.opening import Opening
from bastion.core.session import CHANNELS
from bastion.core.target import (
    FULL_UNTIL,
    PASSED_ENVIRONMENT,
    Catalogue,
    Environment,
    Hop,
    Region,
    Scope,
    Target,
    catalogue_of,
)

STORE_SCHEMES = ("sqlite", "postgresql")
COORDINATION_SCHEMES = ("redis", "rediss", "unix")

MIN_LIFETIME, MAX_LIFETIME = timedelta(minutes=1), timedelta(hours=1)
"""Of a contractor's certificate: long enough for a clock that is off, short enough to be worth little (law 3)."""

MIN_UNUSED, MAX_UNUSED = timedelta(hours=1), timedelta(days=30)
MIN_LOGIN_WITHIN, MAX_LOGIN_WITHIN = timedelta(minutes=15), timedelta(days=30)

MIN_WINDOW, MAX_WINDOW = timedelta(minutes=1), timedelta(hours=1)
"""In which failures are counted: below it nobody is slowed, beyond it whoever mistyped waits too long."""

MIN_CHECK, MAX_CHECK = timedelta(seconds=30), timedelta(minutes=30)
"""Between questions whether an issuer stands by a login: it bears so many, and an hour without an answer is the end."""

MAX_DRAIN = timedelta(hours=12)
"""Beyond it nobody who is told to wait is still waiting."""

MIN_AGE, MAX_AGE = timedelta(days=1), timedelta(days=366)
"""Of geo data."""


def _base(info: ValidationInfo) -> Path:
    return info.context["base"] if info.context else Path()


def _setting(parse: Callable[[Any], Any], **schema: Any) -> tuple[PlainValidator, WithJsonSchema]:
    return PlainValidator(parse), WithJsonSchema({"type": "string", **schema})


def _reference_schema(*kinds: str) -> dict[str, Any]:
    return {
        "oneOf": [
            {
                "type": "object",
                "properties": {kind: {"type": "string", "minLength": 1}},
                "required": [kind],
                "additionalProperties": False,
            }
            for kind in kinds
        ]
    }


_REFERENCE_SCHEMA = _reference_schema("file", "env", "credential")
_URL_SCHEMA: dict[str, Any] = {"oneOf": [{"type": "string"}, *_REFERENCE_SCHEMA["oneOf"]]}

Text = Annotated[str, *_setting(values.text, minLength=1)]
MayBeEmpty = Annotated[str, *_setting(lambda raw: raw if raw == "" else values.text(raw))]
Label = Annotated[str, *_setting(values.label, pattern="^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Login = Annotated[str, *_setting(values.login, pattern="^[a-z_][a-z0-9_-]{0,31}$")]
Port = Annotated[int, PlainValidator(values.port), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 65535})]
Workers = Annotated[
    int,
    PlainValidator(values.workers),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": values.MAX_WORKERS}),
]
Channels = Annotated[
    int,
    PlainValidator(values.channels),
    WithJsonSchema({"type": "integer", "minimum": values.MIN_CHANNELS, "maximum": values.MAX_CHANNELS}),
]
Country = Annotated[str, *_setting(values.country, pattern="^[A-Z]{2}$")]
Net = Annotated[Network, *_setting(values.network)]
Balancer = Annotated[Network, *_setting(values.balancer)]
Host = Annotated[str, *_setting(values.host, minLength=1)]
Opened = Annotated[Opening, *_setting(values.opening, minLength=1)]
Variable = Annotated[str, *_setting(values.variable, pattern=values.VARIABLE.pattern)]
Listen = Annotated[HostPort, *_setting(values.host_port)]
PublicUrl = Annotated[str, *_setting(values.public_url, format="uri")]
IssuerUrl = Annotated[str, *_setting(values.issuer_url, format="uri")]
KeyLine = Annotated[str, *_setting(hostkeys.public_key, pattern="^(ssh|ecdsa)-[a-z0-9-]+ AAAA")]
Channel = Annotated[str, *_setting(values.channel, pattern=values.CHANNEL.pattern)]
HttpsUrl = Annotated[str, *_setting(values.https_url, format="uri")]
MattermostId = Annotated[str, *_setting(values.matching(values.MATTERMOST_ID, "an id of 26 characters"))]
SigningKey = Annotated[str, *_setting(values.matching(values.SIGNING_KEY, "a public key of P-256 in base64"))]
DiscordKey = Annotated[str, *_setting(values.matching(values.DISCORD_KEY, "64 hexadecimal digits"))]
Snowflake = Annotated[str, *_setting(values.matching(values.SNOWFLAKE, "an id of 15 to 20 digits, in quotes"))]
Guid = Annotated[str, *_setting(values.matching(values.GUID, "an id such as 00000000-0000-0000-0000-000000000000"))]
Workspace = Annotated[str, *_setting(values.workspace, pattern=values.WORKSPACE.pattern)]
Lifetime = Annotated[timedelta, *_setting(lambda raw: values.duration(raw, MIN_LIFETIME, MAX_LIFETIME))]
Age = Annotated[timedelta, *_setting(lambda raw: values.duration(raw, MIN_AGE, MAX_AGE))]
Window = Annotated[timedelta, *_setting(lambda raw: values.duration(raw, MIN_WINDOW, MAX_WINDOW))]
Borne = Annotated[
    int,
    PlainValidator(values.borne),
    WithJsonSchema({"type": "integer", "minimum": values.MIN_BORNE, "maximum": values.MAX_BORNE}),
]
Check = Annotated[timedelta, *_setting(lambda raw: values.duration(raw, MIN_CHECK, MAX_CHECK))]
UnusedAfter = Annotated[timedelta, *_setting(lambda raw: values.duration(raw, MIN_UNUSED, MAX_UNUSED))]
LoginWithin = Annotated[timedelta, *_setting(lambda raw: values.duration(raw, MIN_LOGIN_WITHIN, MAX_LOGIN_WITHIN))]
KeptInFull = Annotated[values.Size | None, *_setting(values.size, pattern="^([0-9]{1,6}[KMGT]iB|everything)$")]
Drain = Annotated[timedelta, *_setting(lambda raw: values.duration(raw, timedelta(0), MAX_DRAIN))]
Acr = Annotated[str, *_setting(values.word, minLength=1)]
Pattern = Annotated[str, *_setting(values.subject_pattern, minLength=1)]
Algorithms = Annotated[
    frozenset[str],
    PlainValidator(values.algorithms),
    WithJsonSchema(
        {"oneOf": [{"const": "legacy"}, {"type": "array", "items": {"enum": list(LEGACY)}, "uniqueItems": True}]}
    ),
]
Via = Annotated[values.Via, *_setting(values.via, minLength=3)]
FilePath = Annotated[
    Path,
    PlainValidator(lambda raw, info: _base(info) / values.text(raw)),
    WithJsonSchema({"type": "string", "minLength": 1}),
]
Reference = Annotated[
    Secret, PlainValidator(lambda raw, info: parse_secret(raw, _base(info))), WithJsonSchema(_REFERENCE_SCHEMA)
]
Key = Annotated[
    FileSecret | CredentialSecret,
    PlainValidator(lambda raw, info: parse_key(raw, _base(info))),
    WithJsonSchema(_reference_schema("file", "credential")),
]
StoreUrl = Annotated[
    Secret | Plain,
    PlainValidator(lambda raw, info: parse_url(raw, _base(info), STORE_SCHEMES, "sqlite")),
    WithJsonSchema(_URL_SCHEMA),
]
CoordinationUrl = Annotated[
    Secret | Plain,
    PlainValidator(lambda raw, info: parse_url(raw, _base(info), COORDINATION_SCHEMES, "memory")),
    WithJsonSchema(_URL_SCHEMA),
]


class Section(BaseModel):
    """Part of the file: unknown keys are refused, nothing changes after it was read."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, use_attribute_docstrings=True)


class ListenEntry(Section):
    ssh: Listen
    http: Listen


class TlsEntry(Section):
    certificate: FilePath
    """The chain, PEM, the server's own first."""
    key: Key


class StoreEntry(Section):
    url: StoreUrl = Plain("sqlite")
    """``sqlite`` (in the data directory), or a URL of sqlite or postgresql, or a reference to a file that holds one."""


class CoordinationEntry(Section):
    url: CoordinationUrl = Plain("memory")
    """``memory`` (one node), or a URL of redis, or a reference to a file that holds one."""


class ClaimsEntry(Section):
    groups: Text = "groups"
    name: Text = "name"
    group_prefix: MayBeEmpty = ""
    """Put before every group of this issuer, so that two issuers cannot both say ``admins``."""
    only_groups: tuple[Text, ...] | None = None
    """The groups that count, as the issuer writes them. Left out, all do; empty, none does."""
    mfa_acr: tuple[Acr, ...] = ()
    """Values of ``acr`` by which this issuer says that several factors were used; `bastion login --mfa` asks for them.
    One that says so in ``amr`` needs none."""

    def mapping(self) -> ClaimMapping:
        return ClaimMapping(
            groups=self.groups,
            name=self.name,
            group_prefix=self.group_prefix,
            only_groups=None if self.only_groups is None else frozenset(self.only_groups),
            mfa=frozenset(self.mfa_acr),
        )


class IssuerEntry(Section):
    issuer: IssuerUrl
    """Exactly as the provider's discovery document says it."""
    client_id: Text
    client_secret: Reference | None = None
    scopes: tuple[Text, ...] = ("openid", "email", "profile")
    """With ``offline_access``, or where the issuer gives refresh tokens anyway, logins are asked about again."""
    claims: ClaimsEntry = ClaimsEntry()
    check: Check = timedelta(minutes=5)
    """How often an issuer that gave a refresh token is asked whether it stands by the login, and for its groups."""
    returns_after_logout: StrictBool = False
    """Whether browsers come back from logging out there: to ``/logout/done`` under the public URL, which the issuer
    must know as a ``post_logout_redirect_uri``.
    """


class WorkloadEntry(Section):
    issuer: IssuerUrl
    """Exactly as its tokens say it."""
    audience: Text
    """What its tokens are made for: the bastion, and nothing else."""
    subject: Pattern
    """Exact, or with ``*`` for any characters of a part between colons, and a last part ``**`` for all that follow."""
    name: Label
    groups: tuple[Text, ...] = ()


class SignalEntry(Section):
    issuer: IssuerUrl
    """The transmitter of security events, exactly as its tokens say it."""
    audience: Text
    """What its stream calls the bastion."""
    token: Reference
    """What it shows to push to `/events/ssf`."""
    about: tuple[IssuerUrl, ...] = ()
    """The issuers about whose people it may speak; left out, its own."""


class GeoEntry(Section):
    database: FilePath | None = None
    """MaxMind format. Without one, only ``networks`` place anybody."""
    max_age: Age = timedelta(days=45)
    """Older data is warned about."""
    networks: dict[Net, Country] = Field(default_factory=dict)
    """Private ranges are nowhere until they are put somewhere."""


class FenceEntry(Section):
    countries: tuple[Country, ...] = ()
    networks: tuple[Net, ...] = ()


class RegionEntry(Section):
    fence: FenceEntry


class EnvironmentEntry(Section):
    tier: Label | None = None
    """Environments of one tier may be used together; left out, it is the environment's own."""


class TargetEntry(Section):
    name: Label
    environment: Label
    region: Label
    host: Host
    port: Port = 22
    logins: tuple[Login, ...]
    host_keys: tuple[KeyLine, ...] = ()
    host_ca: KeyLine | None = None
    algorithms: Algorithms = frozenset()
    """For a host that lacks the strong ones: ``legacy``, or the names of those of them that it needs."""
    forward: tuple[Opened, ...] = ()
    """Hosts and ports besides its own loopback that grants with ``ssh:forward`` reach through it."""
    env: tuple[Variable, ...] = PASSED_ENVIRONMENT
    """Variables that a client may set."""

    via: Via | None = None
    """``login@target``: another target of the scope, through which the bastion reaches this one."""
    full_until: KeptInFull = None
    """Left out, what ``recordings`` says."""

    @property
    def scope(self) -> Scope:
        return Scope(self.environment, self.region)

    @property
    def full_name(self) -> str:
        return f"{self.name}.{self.environment}.{self.region}"

    @property
    def hop(self) -> str | None:
        """The full name of the target that it is behind; a short one means one of its own scope."""
        if self.via is None:
            return None
        name = self.via.target
        return name if "." in name else f"{name}.{self.environment}.{self.region}"

    def target(self, hop: Target | None, full_until: int | None) -> Target:
        return Target(
            name=self.name,
            scope=self.scope,
            host=self.host,
            port=self.port,
            logins=frozenset(self.logins),
            host_keys=self.host_keys,
            host_ca=self.host_ca,
            algorithms=self.algorithms,
            via=Hop(self.via.login, hop) if self.via and hop else None,
            forward=self.forward,
            env=self.env,
            full_until=self.full_until if "full_until" in self.model_fields_set else full_until,
        )


class RecordingsEntry(Section):
    full_until: KeptInFull = values.Size(FULL_UNTIL)
    """How much of each stream without a terminal is kept in full; of more, its size and SHA-256. Or ``everything``."""


class CertificatesEntry(Section):
    lifetime: Lifetime = timedelta(minutes=10)


class ThrottleEntry(Section):
    window: Window = Limits.window
    """Opened by the first that is counted; when it is over, all of it is forgotten."""
    failures: Borne = Limits.failures
    """Wrong proofs of one identity from one address, over all protocols and nodes."""
    strangers: Borne = Limits.strangers
    """Wrong proofs from one address (of IPv6 the /64) where nothing says whose they are."""
    begun: Borne = Limits.begun
    """Logins of one address that were begun and not finished, of each kind."""

    def limits(self) -> Limits:
        return Limits(window=self.window, failures=self.failures, strangers=self.strangers, begun=self.begun)


class SlackEntry(Section):
    signing_secret: Reference | None = None
    """For requests over HTTP. Without one, Slack is heard through Socket Mode alone."""
    workspaces: tuple[Workspace, ...]
    """Team ids that are listened to."""
    bot_token: Reference | None = None
    """``xoxb-…``: for buttons, forms and threads. Without one there are only commands."""
    app_token: Reference | None = None
    """``xapp-…``: for Socket Mode, where the bastion opens the connection and nothing needs to reach it."""
    channel: Channel | None = None
    """Id of the channel in which requests and grants are told, each in its thread."""


class MattermostEntry(Section):
    url: HttpsUrl
    """Of the server."""
    command_token: Reference
    """Of the slash command."""
    signing_key: SigningKey
    """``AsymmetricSigningPublicKey`` of the server's ``/api/v4/config/client?format=old``: it proves who did what."""
    teams: tuple[MattermostId, ...]
    """Team ids that are listened to."""
    bot_token: Reference | None = None
    channel: MattermostId | None = None
    """Id of the channel in which requests and grants are told; it needs the bot's token."""


class DiscordEntry(Section):
    public_key: DiscordKey
    """Of the application, on its General Information page."""
    guilds: tuple[Snowflake, ...]
    """Server ids that are listened to."""
    bot_token: Reference | None = None
    channel: Snowflake | None = None
    """Id of the channel in which requests and grants are told; it needs the bot's token."""


class TeamsEntry(Section):
    app_id: Guid
    """Of the bot."""
    app_password: Reference
    app_tenant: Guid
    """In which the bot is registered."""
    tenants: tuple[Guid, ...]
    """Whose people are listened to."""
    channel: Text | None = None
    """Id of the channel in which requests and grants are told, ``19:…@thread.tacv2``; it needs service_url."""
    service_url: HttpsUrl | None = None
    """Of the connector that serves the channel, such as ``https://smba.trafficmanager.net/emea/``."""


class WebhookEntry(Section):
    url: HttpsUrl
    secret: Reference
    """``whsec_`` and base64, as Standard Webhooks writes it."""


class MailEntry(Section):
    host: Host
    port: Port = 587
    """STARTTLS is always asked for."""
    user: Text | None = None
    password: Reference | None = None
    sender: Text
    to: tuple[Text, ...] = ()
    """Who is told of everything. Whom something concerns is told of it anyway."""


class NoticesEntry(Section):
    unused_after: UnusedAfter = timedelta(days=7)
    """After how long without use a live grant is somebody's to end; its reviewers are reminded once."""
    mail: MailEntry | None = None
    webhooks: tuple[WebhookEntry, ...] = ()

    def secrets(self) -> dict[tuple[str | int, ...], Secret | None]:
        """Every reference, by the path of its setting."""
        found: dict[tuple[str | int, ...], Secret | None] = {
            ("notices", "webhooks", i, "secret"): hook.secret for i, hook in enumerate(self.webhooks)
        }
        return found | {("notices", "mail", "password"): self.mail.password if self.mail else None}


class ChatEntry(Section):
    login_within: LoginWithin = timedelta(hours=12)
    """How long a login is believed of who acts from a chat. An issuer that is asked again renews it (``check``)."""
    slack: SlackEntry | None = None
    mattermost: MattermostEntry | None = None
    discord: DiscordEntry | None = None
    teams: TeamsEntry | None = None

    def platforms(self) -> dict[str, Section]:
        """The chats that are configured, by their names."""
        return {name: entry for name, entry in self if isinstance(entry, Section)}

    def secrets(self) -> dict[tuple[str | int, ...], Secret | None]:
        """Every reference of every chat, by the path of its setting."""
        return {
            ("chat", platform, key): value
            for platform, entry in self.platforms().items()
            for key, value in entry
            if isinstance(value, FileSecret | EnvSecret | CredentialSecret)
        }


class Settings(Section):
    """Everything that one file says. Paths are absolute; secrets are still references."""

    model_config = ConfigDict(title="Bastion")

    node: Label
    workers: Workers = 1
    """Processes that share the listeners' ports; more than one need Redis between them."""
    public_url: PublicUrl
    """An origin, without a slash at its end."""
    listen: ListenEntry
    tls: TlsEntry | None = None
    ssh_channels: Channels = CHANNELS
    """Sessions and forwarded streams of one SSH client at a time; each costs up to 128 KiB, and all 64 MiB besides."""
    qr_codes: StrictBool = False
    """Whether an OpenSSH client that logs in by a browser is shown the link as a QR code too; needs UTF-8 there."""
    proxy_protocol: tuple[Balancer, ...] = ()
    """Balancers whose PROXY header is believed."""
    drain: Drain = timedelta(minutes=5)
    """How long live sessions may go on when the bastion is told to stop; new ones are refused meanwhile."""
    data: FilePath
    store: StoreEntry = StoreEntry()
    coordination: CoordinationEntry = CoordinationEntry()
    issuers: tuple[IssuerEntry, ...]
    workloads: tuple[WorkloadEntry, ...] = ()
    signals: tuple[SignalEntry, ...] = ()
    geo: GeoEntry = GeoEntry()
    regions: dict[Label, RegionEntry]
    environments: dict[Label, EnvironmentEntry]
    targets: tuple[TargetEntry, ...]
    policy: FilePath
    policy_tests: FilePath | None = None
    certificates: CertificatesEntry = CertificatesEntry()
    throttle: ThrottleEntry = ThrottleEntry()
    recordings: RecordingsEntry = RecordingsEntry()
    chat: ChatEntry = ChatEntry()
    notices: NoticesEntry = NoticesEntry()

    _base: Path = PrivateAttr(default=Path())

    def model_post_init(self, context: Any, /) -> None:
        self._base = context["base"] if context else Path()

    def of_worker(self, worker: int) -> Settings:
        """The same for one of several workers, which are nodes to one another. The first has the node's own name."""
        return self if worker == 1 else self.model_copy(update={"node": f"{self.node}.{worker}"})

    @property
    def base(self) -> Path:
        """The directory of the file, which relative paths begin at."""
        return self._base

    def catalogue(self) -> Catalogue:
        """The environments, regions and targets as the core knows them."""
        return catalogue_of(
            (Environment(name, entry.tier or name) for name, entry in self.environments.items()),
            (
                Region(name, Fence(frozenset(entry.fence.countries), entry.fence.networks))
                for name, entry in self.regions.items()
            ),
            self._targets(),
        )

    def _targets(self) -> Iterator[Target]:
        """Each with those that it is behind; the checks have found no circle."""
        entries = {entry.full_name: entry for entry in self.targets}

        def made(entry: TargetEntry) -> Target:
            hop = made(entries[entry.hop]) if entry.hop else None
            return entry.target(hop, self.recordings.full_until)

        return map(made, self.targets)

    def secrets(self) -> dict[tuple[str | int, ...], Secret]:
        """Every reference, by the path of its setting."""
        found: dict[tuple[str | int, ...], Secret | Plain | None] = {
            ("tls", "key"): self.tls.key if self.tls else None,
            ("store", "url"): self.store.url,
            ("coordination", "url"): self.coordination.url,
            **{("issuers", i, "client_secret"): issuer.client_secret for i, issuer in enumerate(self.issuers)},
            **{("signals", i, "token"): signal.token for i, signal in enumerate(self.signals)},
            **self.chat.secrets(),
            **self.notices.secrets(),
        }
        return {path: secret for path, secret in found.items() if secret is not None and not isinstance(secret, Plain)}


class _SchemaWriter(GenerateJsonSchema):
    """Writes defaults as they would be written in the file."""

    def encode_default(self, dft: Any) -> Any:
        match dft:
            case Section():
                return {name: self.encode_default(value) for name, value in dft}
            case timedelta():
                return values.spell(dft)
            case Plain(value):
                return value
            case values.Size():
                return str(dft)
            case frozenset():
                return sorted(dft)
            case _:
                return super().encode_default(dft)


def schema() -> dict[str, Any]:
    """The file's JSON Schema (2020-12), for editors."""
    written = Settings.model_json_schema(schema_generator=_SchemaWriter)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **written}
