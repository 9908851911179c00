"""The sshd that demo and tests run: OpenSSH's own, with our logins, and gone when its block ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import asyncssh
import pytest

from bastion.demo.sshd import Sshd, SshdFailed, make_host_key, running_sshd
from bastion.demo.tools import find_tool, tool_environment
from tests.services.sshd import StartSshd

PRINCIPAL = "staging/eu/deploy"


@pytest.fixture
def authority() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


def line_of(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


def holder(folder: Path, authority: asyncssh.SSHKey, *principals: str) -> Path:
    """A key file in ``folder`` with a certificate beside it, as ssh wants them."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    certificate = authority.generate_user_certificate(key, "visit-7", serial=7, principals=principals)
    file = folder / "id"
    file.touch(mode=0o600)
    file.write_bytes(key.export_private_key())
    certificate.write_certificate(folder / "id-cert.pub")
    return file


def ssh_arguments(server: Sshd, identity: Path, known_hosts: str | None = None) -> list[str]:
    hosts = identity.parent / "known_hosts"
    hosts.write_text((known_hosts or server.known_hosts_line) + "\n")
    options = ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", f'UserKnownHostsFile="{hosts}"')
    flags = [flag for option in options for flag in ("-o", option)]
    return ["-F", "none", *flags, "-i", str(identity)]


def ssh(
    server: Sshd, identity: Path, login: str, command: str, known_hosts: str | None = None
) -> subprocess.CompletedProcess[str]:
    arguments = [*ssh_arguments(server, identity, known_hosts), "-p", str(server.port), f"{login}@{server.address}"]
    return subprocess.run(
        [find_tool("ssh"), *arguments, command],
        env=tool_environment(), capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip


def test_a_certificate_opens_the_login_that_lists_its_principal(
    tmp_path: Path, start_sshd: StartSshd, authority: asyncssh.SSHKey
) -> None:
    server = start_sshd(principals={"deploy": [PRINCIPAL]}, user_authorities=[line_of(authority)])
    run = ssh(server, holder(tmp_path, authority, PRINCIPAL), "deploy", 'echo "$USER in $PWD"')
    assert run.stdout == f"deploy in {server.home('deploy')}\n", run.stderr
    assert "ID visit-7 (serial 7)" in server.wait_for_log("Accepted publickey for deploy")


@pytest.mark.parametrize(
    ("login", "principals"),
    [
        pytest.param("deploy", ["production/eu/deploy"], id="of-another-scope"),
        pytest.param("admin", [PRINCIPAL], id="of-another-login"),
        pytest.param("deploy", ["staging/eu/deploy2"], id="that-only-begins-so"),
        pytest.param("nobody-here", [PRINCIPAL], id="for-a-login-that-does-not-exist"),
    ],
)
def test_a_certificate_without_the_logins_principal_is_refused(
    tmp_path: Path, start_sshd: StartSshd, authority: asyncssh.SSHKey, login: str, principals: list[str]
) -> None:
    server = start_sshd(
        principals={"deploy": [PRINCIPAL], "admin": ["staging/eu/admin"]}, user_authorities=[line_of(authority)]
    )
    run = ssh(server, holder(tmp_path, authority, *principals), login, "true")
    assert run.returncode == 255
    assert "Permission denied" in run.stderr


def test_another_authoritys_certificate_is_refused(
    tmp_path: Path, start_sshd: StartSshd, authority: asyncssh.SSHKey
) -> None:
    server = start_sshd(principals={"deploy": [PRINCIPAL]}, user_authorities=[line_of(authority)])
    stranger = asyncssh.generate_private_key("ssh-ed25519")
    run = ssh(server, holder(tmp_path, stranger, PRINCIPAL), "deploy", "true")
    assert run.returncode == 255
    assert "Permission denied" in run.stderr


def test_a_host_certificate_is_shown_to_clients_that_trust_its_authority(
    tmp_path: Path, start_sshd: StartSshd, authority: asyncssh.SSHKey
) -> None:
    host_key, host_authority = tmp_path / "host", asyncssh.generate_private_key("ssh-ed25519")
    make_host_key(host_key)
    certificate = host_authority.generate_host_certificate(
        asyncssh.read_private_key(host_key), "host", principals=["127.0.0.1"]
    )
    certificate.write_certificate(tmp_path / "host-cert.pub")
    server = start_sshd(
        principals={"deploy": [PRINCIPAL]},
        user_authorities=[line_of(authority)],
        host_key=host_key,
        host_certificate=tmp_path / "host-cert.pub",
    )
    trusted = f"@cert-authority * {line_of(host_authority)}"
    run = ssh(server, holder(tmp_path, authority, PRINCIPAL), "deploy", "echo here", known_hosts=trusted)
    assert run.stdout == "here\n", run.stderr


def test_files_come_and_go_by_sftp(tmp_path: Path, start_sshd: StartSshd, authority: asyncssh.SSHKey) -> None:
    server = start_sshd(principals={"deploy": [PRINCIPAL]}, user_authorities=[line_of(authority)])
    identity = holder(tmp_path, authority, PRINCIPAL)
    (tmp_path / "report").write_text("all well\n")
    command = [
        str(find_tool("sftp")),
        "-S",
        str(find_tool("ssh")),
        *ssh_arguments(server, identity),
        "-P",
        str(server.port),
    ]
    run = subprocess.run(
        [*command, "-b", "-", f"deploy@{server.address}"],
        input=f'put "{tmp_path}/report"\n', env=tool_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (server.home("deploy") / "report").read_text() == "all well\n", run.stderr


def test_nothing_is_left_of_a_server_not_even_what_a_session_orphaned(
    tmp_path: Path, authority: asyncssh.SSHKey
) -> None:
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    with running_sshd(folder, principals={"deploy": [PRINCIPAL]}, user_authorities=[line_of(authority)]) as server:
        identity = holder(tmp_path, authority, PRINCIPAL)
        orphan = ssh(server, identity, "deploy", "setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $!")
        command = [str(find_tool("ssh")), *ssh_arguments(server, identity), "-p", str(server.port), "deploy@127.0.0.1"]
        with subprocess.Popen(
            [*command, "echo $$; sleep 1000"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as client:
            assert client.stdout is not None
            session = client.stdout.readline()
            pids = [server.pid, int(orphan.stdout), int(session)]
            assert all(is_running(pid) for pid in pids)
            client.kill()
    assert not [pid for pid in pids if is_running(pid)]


def test_a_server_dies_with_the_program_that_started_it_even_when_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from bastion.demo.sshd import running_sshd\n"
        "with running_sshd(Path(sys.argv[1]), principals={}) as server:\n"
        "    print(server.pid, flush=True); time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        assert is_running(pid)
        program.kill()
    deadline = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < deadline, "the server outlived the program"
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(SshdFailed, match="Bad configuration option: NoSuchOption"),
        running_sshd(tmp_path, principals={}, extra=["NoSuchOption yes"]),
    ):
        pass
