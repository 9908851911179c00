"""The annotated example as an operator would have installed it, in a temporary folder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

EXAMPLE = Path(__file__).parent.parent / "config"
SECRETS = ("oidc-secret", "slack-signing-secret", "slack-bot-token", "slack-app-token", "signals-token")


@dataclass(frozen=True, slots=True)
class Site:
    """A folder with a configuration in it, and everything that the configuration refers to."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "bastion.yaml"

    @property
    def policy(self) -> Path:
        return self.folder / "policy.cedar"

    @property
    def tests(self) -> Path:
        return self.folder / "policy_tests.yaml"

    @property
    def key(self) -> Path:
        return self.folder / "etc" / "tls" / "key.pem"

    def edit(self, old: str, new: str, *, file: Path | None = None) -> None:
        """Replace ``old``, which must be there exactly once."""
        path = file or self.config
        text = path.read_text()
        assert text.count(old) == 1, (old, text.count(old))
        path.write_text(text.replace(old, new))

    def line_of(self, part: str, *, file: Path | None = None) -> int:
        """The number of the one line that has ``part`` in it."""
        (line,) = [n for n, text in enumerate((file or self.config).read_text().splitlines(), 1) if part in text]
        return line


def install(folder: Path) -> Site:
    """Copy the example, with folders and files of our own for those of the system."""
    for example in EXAMPLE.iterdir():
        text = example.read_text().replace("/etc/bastion", f"{folder}/etc").replace("/var/lib/bastion", f"{folder}/var")
        (folder / example.name).write_text(text)
    (folder / "etc" / "tls").mkdir(parents=True)
    for name in SECRETS:
        _write_private(folder / "etc" / name, f"the {name}\n".encode())
    public, key = certificate("bastion.example.com")
    (folder / "etc" / "tls" / "fullchain.pem").write_bytes(public)
    _write_private(folder / "etc" / "tls" / "key.pem", key)
    return Site(folder)


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def certificate(host: str) -> tuple[bytes, bytes]:
    """A certificate of its own making for ``host``, and its key; PEM."""
    key, now = Ed25519PrivateKey.generate(), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    builder = x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return builder.sign(key, None).public_bytes(Encoding.PEM), private
