"""``bastion ssh`` and ``bastion cert``: one connection by the system's ssh, with everything fetched that it needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bastion.cli import exits
from bastion.cli.ssh import destination
from bastion.demo.stage import LOGIN, PRODUCTION_WEB, STAGING_WEB
from tests.cli.contractor import contractor


@pytest.mark.parametrize(
    ("words", "at"),
    [
        pytest.param(["host"], 0, id="host"),
        pytest.param(["me@host", "uptime", "-a"], 0, id="command"),
        pytest.param(["-v", "host"], 1, id="flag"),
        pytest.param(["-vvN", "host"], 1, id="flags"),
        pytest.param(["-p", "22", "host"], 2, id="option with value"),
        pytest.param(["-p22", "host"], 1, id="value in the same word"),
        pytest.param(["-vp", "22", "host"], 2, id="flag and option"),
        pytest.param(["-L", "8080:localhost:80", "-N", "host"], 3, id="forward"),
        pytest.param(["-oUser=-v", "host"], 1, id="option that looks like two"),
        pytest.param(["--", "host"], 1, id="end of options"),
        pytest.param(["-v"], None, id="none"),
        pytest.param(["-p", "22"], None, id="none but a value"),
        pytest.param(["--"], None, id="nothing after the end"),
        pytest.param([], None, id="nothing"),
    ],
)
def test_the_target_is_found_among_the_options_of_ssh(words: list[str], at: int | None) -> None:
    assert destination(words) == at


async def test_one_command_from_nothing_to_the_target_with_the_exit_status_of_ssh(tmp_path: Path) -> None:
    async with contractor(tmp_path / "stage") as them:
        done = await them.run("bastion", "ssh", STAGING_WEB, "echo hello from $LOGNAME; echo oops >&2; exit 7")
        assert (done.status, done.out) == (7, f"hello from {LOGIN}\n"), done.err
        assert "oops" in done.err
        assert not them.config.exists()
        issued = them.certificate.read_bytes()
        done = await them.run("bastion", "ssh", "-o", "SendEnv=LANG", "-T", f"{LOGIN}@{STAGING_WEB}", "cat -", "x y")
        assert (done.status, them.certificate.read_bytes()) == (1, issued), done.err  # cat: no such file

        denied = await them.run("bastion", "ssh", PRODUCTION_WEB, "true")
        assert denied.status == exits.REFUSED
        assert "has no live grant on web-1.production.eu" in denied.err
        for words in (["web-1"], ["-v"], ["-p", "22"]):
            wrong = await them.run("bastion", "ssh", *words)
            assert (wrong.status, "Which target?" in wrong.err) == (exits.USAGE, True), wrong

        assert (await them.run("bastion", "logout")).status == exits.OK
        done = await them.run("bastion", "ssh", STAGING_WEB, "true")
        assert (done.status, done.err) == (exits.NOT_LOGGED_IN, "Not logged in: bastion login\n")

        await them.log_in()
        said = await them.run("bastion", "cert", STAGING_WEB, "--json")
        answer = json.loads(said.out)
        assert answer["path"] == str(them.certificate)
        assert Path(answer["ssh_config"]).is_file()
        assert {path.stat().st_mode & 0o077 for path in them.ssh_files.iterdir() if path.is_file()} <= {0, 0o044}
        assert (them.ssh_files / "id_ed25519").stat().st_mode & 0o077 == 0

        missing = await them.run("bastion", "cert", STAGING_WEB, "--key", str(tmp_path / "none"))
        assert (missing.status, "cannot be read" in missing.err) == (exits.USAGE, True)
        own = tmp_path / "mine"
        assert (await them.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own))).status == 0
        done = await them.run("bastion", "ssh", "--key", str(own), STAGING_WEB, "echo by my own key")
        assert done.out == "by my own key\n", done.err
        assert own.with_suffix(".pub").read_text().split()[1][-40:] not in answer["certificate"]
        rsa = tmp_path / "rsa"
        assert (await them.run("ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(rsa))).status == 0
        done = await them.run("bastion", "cert", STAGING_WEB, "--key", str(rsa))
        assert (done.status, "ssh-rsa" in done.err) == (exits.REFUSED, True), done
