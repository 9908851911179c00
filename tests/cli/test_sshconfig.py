"""What is written for OpenSSH to obey, and that nothing of it is anybody else's words."""

from __future__ import annotations

import fcntl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bastion.cli.config_ssh import block
from bastion.cli.fresh import IN_AGENT
from bastion.cli.sshconfig import Reached, SshFiles, quoted, render

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ0"
REACHED = Reached().at("bastion.example.com:2222", HOST_KEY).with_scopes(["staging/eu", "production/us"])


def asked_of_openssh(folder: Path, host: str) -> dict[str, list[str]]:
    """How OpenSSH understands ``config``."""
    done = subprocess.run(
        ["ssh", "-G", "-F", str(folder / "config"), host], capture_output=True, text=True, check=True, timeout=20
    )
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name, []).append(value)
    return found


def write(folder: Path, reached: Reached) -> None:
    folder.mkdir(exist_ok=True)
    SshFiles(folder).write(reached)


def grant(*logins: str, target: str = "web-1.staging.eu") -> dict[str, object]:
    return {"targets": [target], "logins": list(logins)}


def test_openssh_understands_it_as_it_is_meant(tmp_path: Path) -> None:
    write(tmp_path, REACHED.with_grants([grant("deploy")]))
    inner = asked_of_openssh(tmp_path, "web-1.staging.eu")
    assert inner["proxyjump"] == ["bastion-staging-eu"]
    assert inner["user"] == ["deploy"]
    assert inner["stricthostkeychecking"] == ["true"]
    assert inner["hostkeyalias"] == ["bastion"]
    outer = asked_of_openssh(tmp_path, "bastion-staging-eu")
    assert (outer["hostname"], outer["port"], outer["user"]) == (["bastion.example.com"], ["2222"], ["bastion"])
    assert outer["certificatefile"] == inner["certificatefile"] == [str(tmp_path / "staging.eu-cert.pub")]
    assert "proxyjump" not in asked_of_openssh(tmp_path, "www.example.com")
    assert (tmp_path / "known_hosts").read_text() == f"bastion {HOST_KEY}\n"


def test_what_somebody_has_set_for_every_host_does_not_lead_away_from_the_bastion(tmp_path: Path) -> None:
    write(tmp_path / "ours", REACHED.with_grants([grant("deploy")]))
    theirs = """
Host *
    HostName %h.corp.example
    User me
    Port 2200
    ProxyJump jump.corp.example
    IdentityFile ~/.ssh/id_rsa
    IdentitiesOnly no
    PubkeyAuthentication no
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
"""
    (tmp_path / "config").write_text(f'Include "{tmp_path}/ours/hosts"\n{theirs}')
    inner = asked_of_openssh(tmp_path, "web-1.staging.eu")
    said = [inner[name] for name in ("hostname", "user", "proxyjump", "pubkeyauthentication", "stricthostkeychecking")]
    assert said == [["web-1.staging.eu"], ["deploy"], ["bastion-staging-eu"], ["true"], ["true"]]
    assert inner["userknownhostsfile"] == [str(tmp_path / "ours" / "known_hosts")]
    outer = asked_of_openssh(tmp_path, "bastion-staging-eu")
    assert (outer["hostname"], outer["port"], outer["user"]) == (["bastion.example.com"], ["2222"], ["bastion"])
    assert outer["proxyjump"] == ["jump.corp.example"], "some reach the outside by a jump of their own"


@pytest.mark.parametrize(
    ("grants", "user"),
    [
        pytest.param([grant("deploy")], "deploy", id="one login"),
        pytest.param([grant("deploy"), grant("deploy")], "deploy", id="the same login twice"),
        pytest.param([grant("deploy", "admin")], None, id="two logins"),
        pytest.param([grant("deploy"), grant("admin")], None, id="two grants"),
        pytest.param([grant("deploy", target="db-1.staging.eu")], None, id="another target"),
        pytest.param([], None, id="no grant"),
    ],
)
def test_the_only_login_there_is_need_not_be_named(
    tmp_path: Path, grants: list[dict[str, object]], user: str | None
) -> None:
    write(tmp_path, REACHED.with_grants(grants))
    found = asked_of_openssh(tmp_path, "web-1.staging.eu")["user"]
    assert found == [user] if user else found != ["deploy"]


def test_a_key_in_the_agent_is_looked_for_there_and_no_key_of_the_user_instead(tmp_path: Path) -> None:
    write(tmp_path, replace(REACHED, scopes=dict(REACHED.scopes) | {"staging.eu": IN_AGENT}))
    found = asked_of_openssh(tmp_path, "web-1.staging.eu")
    assert found["identityagent"] == ["SSH_AUTH_SOCK"]
    assert found["identityfile"] == [str(tmp_path / "staging.eu-cert.pub")]
    assert found["identitiesonly"] == ["yes"]


def test_a_folder_with_spaces_is_the_same_folder_to_openssh(tmp_path: Path) -> None:
    folder = tmp_path / "all of it"
    write(folder, REACHED)
    assert asked_of_openssh(folder, "web-1.staging.eu")["userknownhostsfile"] == [str(folder / "known_hosts")]


@pytest.mark.parametrize("name", ['a"b', "a'b", "a\nb", "a\\b", "${HOME}"], ids=repr)
def test_a_path_that_cannot_be_quoted_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot quote"):
        quoted(Path("/home") / name)


@pytest.mark.parametrize("name", ["100%d", "a*", "a?", "[ab]"])
def test_a_folder_that_openssh_would_expand_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="would expand"):
        write(tmp_path / name, REACHED)


EVIL = "x\n    ProxyCommand touch /tmp/hacked"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: REACHED.at(f"{EVIL}:22", HOST_KEY), id="address"),
        pytest.param(lambda: REACHED.at("host:22\n", HOST_KEY), id="address with a line end"),
        pytest.param(lambda: REACHED.at("host", HOST_KEY), id="address without a port"),
        pytest.param(lambda: REACHED.at("-oProxyCommand=x:22 y", HOST_KEY), id="address with a space"),
        pytest.param(lambda: REACHED.at("host:22", f"{HOST_KEY}\n* {HOST_KEY}"), id="host key"),
        pytest.param(lambda: REACHED.with_scopes([f"staging/{EVIL}"]), id="scope"),
        pytest.param(lambda: REACHED.with_scopes(["*/*"]), id="scope of everything"),
        pytest.param(lambda: REACHED.with_grants([grant(EVIL)]), id="login"),
        pytest.param(lambda: REACHED.with_grants([grant("deploy", target=EVIL)]), id="target"),
        pytest.param(lambda: REACHED.with_grants([grant("deploy", target="*")]), id="target of everything"),
    ],
)
def test_a_bastion_that_lies_gets_no_line_into_the_configuration(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError):
        make()


def test_what_was_written_is_read_back_and_damage_is_as_nothing(tmp_path: Path) -> None:
    files = SshFiles(tmp_path)
    files.write(REACHED)
    assert files.reached() == REACHED
    (tmp_path / "reached.json").write_text('{"scopes": ')
    assert files.reached() == Reached()


def test_the_block_names_every_scope_and_quotes_the_host(tmp_path: Path) -> None:
    first, *rest = block(REACHED, tmp_path / "hosts", None, no_agent=False)
    assert first.startswith('''Match originalhost "*.production.us,*.staging.eu,!*'*" exec "''')
    assert first.endswith(''' cert --refresh '%n'"''')
    assert rest == ["Match all", f'Include "{tmp_path / "hosts"}"']


def test_rendering_names_each_key_once() -> None:
    _, config = render(REACHED, Path("/home/me/.config/bastion/ssh"))
    assert config.count("IdentityFile") == 1
    assert config.count("CertificateFile") == 2


def test_while_one_fetches_no_other_does(tmp_path: Path) -> None:
    files = SshFiles(tmp_path)
    with files.locked(), (tmp_path / ".lock").open("w") as another, pytest.raises(BlockingIOError):
        fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with files.locked():
        pass
