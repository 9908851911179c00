"""What a right file needs around it: keys that can be read by their owner alone, and files that are there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from bastion.config.problems import Problem
from bastion.config.settings import COORDINATION_SCHEMES, STORE_SCHEMES, Settings
from bastion.core.errors import ConfigError
from bastion.core.grant import spell


def nearby(settings: Settings) -> Iterator[Problem]:
    """The files that travel with the configuration: the policies and their tests."""
    for key, path in (("policy", settings.policy), ("policy_tests", settings.policy_tests)):
        if path is not None and (why := _unreadable(path)) is not None:
            yield Problem((key,), why)


def on_this_machine(settings: Settings) -> Iterator[Problem]:
    """Keys, secrets and directories, which are here only where the bastion runs."""
    if settings.data.exists() and not settings.data.is_dir():
        yield Problem(("data",), f"{settings.data} is not a directory")
    revealed: dict[tuple[str | int, ...], str] = {}
    for path, secret in settings.secrets().items():
        try:
            revealed[path] = secret.reveal()
        except ConfigError as error:
            yield Problem(path, error.problems[0])
    for path, schemes in ((("store", "url"), STORE_SCHEMES), (("coordination", "url"), COORDINATION_SCHEMES)):
        if path in revealed and not _has_scheme(revealed[path], schemes):
            yield Problem(
                path, f"what it refers to must be a URL that begins with {' or '.join(s + '://' for s in schemes)}"
            )
    if settings.tls is not None:
        yield from _tls(settings.tls.certificate, revealed.get(("tls", "key")))


def warnings(settings: Settings, now: datetime) -> Iterator[str]:
    """What stops nothing, and an operator wants to know: geo data that is missing, unreadable or old at ``now``."""
    # Slow to import, and only a check opens the database here.
    import maxminddb

    geo = settings.geo
    if geo.database is None:
        if not geo.networks:
            yield "geo: has neither database nor networks, so only networks in fences let anybody in"
        return
    if not geo.database.exists():
        yield f"geo.database: {geo.database} is not there yet, so only geo.networks have a country: bastion geo update"
        return
    try:
        with maxminddb.open_database(geo.database) as database:
            built = datetime.fromtimestamp(database.metadata().build_epoch, UTC)
    except (OSError, maxminddb.InvalidDatabaseError, ValueError) as error:
        yield f"geo.database: {geo.database} cannot be read, so only geo.networks have a country: {error}"
        return
    if now - built > geo.max_age:
        age, most = spell(now - built), spell(geo.max_age)
        yield f"geo.database: was built {age} ago, longer than geo.max_age ({most}): bastion geo update"


def _tls(certificate: Path, key: str | None) -> Iterator[Problem]:
    # Slow to import, and a bastion on loopback has no certificate.
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if (why := _unreadable(certificate)) is not None:
        yield Problem(("tls", "certificate"), why)
        return
    try:
        public = x509.load_pem_x509_certificates(certificate.read_bytes())[0].public_key()
    except (ValueError, IndexError):
        yield Problem(("tls", "certificate"), f"{certificate} is not a PEM certificate")
        return
    if key is None:
        return
    try:
        private = load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError):
        yield Problem(("tls", "key"), "what it refers to is not a PEM private key without a passphrase")
        return
    if private.public_key() != public:
        yield Problem(("tls", "key"), f"is not the key of {certificate}")


def _has_scheme(url: str, schemes: tuple[str, ...]) -> bool:
    try:
        return urlsplit(url).scheme in schemes and "://" in url
    except ValueError:
        return False


def _unreadable(path: Path) -> str | None:
    try:
        if path.exists() and not path.is_file():
            return f"{path} is not a file"
        with path.open("rb"):
            return None
    except OSError as error:
        return f"{path} is unreadable: {error.strerror or error}"
