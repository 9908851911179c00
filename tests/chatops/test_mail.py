"""Notices by e-mail, through a small mail server that speaks STARTTLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bastion.chatops.mail import Mail, Server
from bastion.core.errors import Unavailable
from bastion.core.notice import Asked, Unused
from tests.chatops.counter import PUBLIC_URL
from tests.fakes import FakeClock
from tests.office import CARLA, SAM, Office, open_office, wish

SENDER = "Bastion <bastion@example.com>"


@dataclass(slots=True)
class Post:
    """A mail server on loopback. ``plain`` ones do not offer STARTTLS; ``refusing`` ones take nothing."""

    tls: ssl.SSLContext
    plain: bool = False
    refusing: bool = False
    port: int = 0
    taken: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        secure, recipients = False, []
        writer.write(b"220 post\r\n")
        while line := (await reader.readline()).decode().strip():
            verb = line.split(":")[0].upper()
            self.commands.append(f"{'tls ' if secure else ''}{verb}")
            match verb.split()[0]:
                case "EHLO":
                    offers = "" if secure or self.plain else "250-STARTTLS\r\n"
                    writer.write(f"250-post\r\n{offers}250 8BITMIME\r\n".encode())
                case "STARTTLS":
                    writer.write(b"220 go\r\n")
                    await writer.drain()
                    await writer.start_tls(self.tls)
                    secure = True
                case "RCPT":
                    recipients.append(line.partition("<")[2].partition(">")[0])
                    writer.write(b"250 ok\r\n")
                case "DATA" if self.refusing:
                    writer.write(b"451 later\r\n")
                case "DATA":
                    writer.write(b"354 go\r\n")
                    raw = await reader.readuntil(b"\r\n.\r\n")
                    message = message_from_bytes(raw[:-3], policy=policy.default)
                    assert isinstance(message, EmailMessage)
                    self.taken.append((recipients, message))
                    recipients = []
                    writer.write(b"250 ok\r\n")
                case "QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                case _:
                    writer.write(b"250 ok\r\n")
            await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 in one file."""
    key, name = generate_private_key(SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "post")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, SHA256())
    )
    path = tmp_path_factory.mktemp("post") / "post.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + made.public_bytes(Encoding.PEM))
    return path


@asynccontextmanager
async def running(post: Post) -> AsyncIterator[Post]:
    server = await asyncio.start_server(post.serve, "127.0.0.1", 0)
    post.port = server.sockets[0].getsockname()[1]
    try:
        yield post
    finally:
        server.close()


@pytest.fixture
async def post(certificate: Path) -> AsyncIterator[Post]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with running(Post(context)) as post:
        yield post


@pytest.fixture
async def office(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Office]:
    async with open_office(tmp_path, clock) as office:
        yield office


def mail(office: Office, post: Post, trust: Path | None, *to: str) -> Mail:
    context = ssl.create_default_context(cafile=trust)
    server = Server("127.0.0.1", post.port, None, None, context)
    return Mail(server=server, sender=SENDER, to=to, store=office.store, clock=office.clock, public_url=PUBLIC_URL)


async def asked(office: Office, reason: str = "fix the queue") -> Asked:
    request = await office.approval.request(CARLA, CARLA, wish(reason=reason), None)
    return Asked(request.id, office.clock.now())


async def test_whom_it_concerns_and_who_is_told_of_everything_get_one_e_mail(
    office: Office, post: Post, certificate: Path
) -> None:
    notice = await asked(office)
    await mail(office, post, certificate, "security@example.com").tell(notice)
    ((recipients, message),) = post.taken
    assert recipients == ["security@example.com", "carla@example.com"]
    assert message["Subject"].startswith(f"[Bastion] {notice.request_id}: ")
    assert message["Message-ID"] == f"<asked-{notice.request_id}@example.com>"
    body = message.get_body()
    assert body is not None
    assert "Reason: fix the queue" in body.get_content()
    assert "text/plain" in message["Content-Type"]


async def test_a_reminder_of_unused_access_has_the_way_to_its_end(
    office: Office, post: Post, certificate: Path
) -> None:
    await office.approval.grant(SAM, CARLA, wish(), None)
    (grant,) = await office.store.grants()
    notice = Unused(grant.request_id, office.clock.now(), grant.id, grant.starts_at)
    await mail(office, post, certificate, "security@example.com").tell(notice)
    ((_, message),) = post.taken
    body = message.get_body()
    assert body is not None
    assert f"Its recordings, and its end: {PUBLIC_URL}/grants/{grant.id}" in body.get_content().splitlines()


async def test_nothing_is_sent_before_the_line_is_encrypted(office: Office, post: Post, certificate: Path) -> None:
    await mail(office, post, certificate).tell(await asked(office))
    assert post.commands[:2] == ["EHLO [127.0.0.1]", "STARTTLS"] or post.commands[1] == "STARTTLS"
    assert all(command.startswith("tls ") for command in post.commands[2:])


async def test_a_server_without_starttls_or_with_a_strangers_certificate_gets_nothing(
    office: Office, post: Post, certificate: Path
) -> None:
    notice = await asked(office)
    with pytest.raises(Unavailable):
        await mail(office, post, None).tell(notice)  # nobody we trust has signed it
    post.plain = True
    with pytest.raises(Unavailable):
        await mail(office, post, certificate).tell(notice)
    assert post.taken == []


async def test_a_server_that_takes_nothing_is_tried_again(office: Office, post: Post, certificate: Path) -> None:
    post.refusing = True
    with pytest.raises(Unavailable):
        await mail(office, post, certificate).tell(await asked(office))


@pytest.mark.parametrize(
    "address", ["carla@example.com\r\nBcc: eve@example.com", "carla", "a b@c", "@", "ü@example.com", "a@b,c@d"]
)
async def test_an_address_that_is_none_gets_nothing(
    office: Office, post: Post, certificate: Path, address: str
) -> None:
    notice = await asked(office)
    await office.know(replace(CARLA, email=address))
    await mail(office, post, certificate).tell(notice)
    assert post.taken == []


async def test_a_name_writes_no_header(office: Office, post: Post, certificate: Path) -> None:
    notice = await asked(office)
    await office.know(replace(CARLA, email=None, name="Carla\r\nBcc: eve@example.com"))
    await mail(office, post, certificate, "security@example.com").tell(notice)
    ((recipients, message),) = post.taken
    assert recipients == ["security@example.com"]
    assert message["Bcc"] is None
