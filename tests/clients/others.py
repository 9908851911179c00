"""Clients that are not OpenSSH: PuTTY's, Dropbear's, libraries, and what is built on them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import asyncssh

from bastion.core.policy import Action
from bastion.demo.tools import UNPACKED, find_tool
from tests.clients.desk import HOST, NAME, Content, Desk, Environment, Kept, Running
from tests.clients.files import SFTP, WRITES, content
from tests.plain import CODE, Client

HERE = Path(__file__).parent

FORKS = 20


# PuTTY ----------------------------------------------------------------------------------------------------------------


async def putty(desk: Desk, program: str) -> list[str | Path]:
    """How a program of PuTTY's begins: with a converted key, and the certificate beside it (since 0.78)."""
    key, fingerprint = desk.folder / "id.ppk", asyncssh.import_public_key(desk.host_key).get_fingerprint()
    if not key.exists():
        await desk.must("puttygen", desk.key, "-O", "private", "-o", key)
    return [program, "-batch", "-P", str(desk.port), "-l", NAME, "-i", key, "-cert", desk.certificate,
            "-hostkey", fingerprint]  # fmt: skip


async def plink(desk: Desk) -> list[Kept]:
    ran = await desk.run(*await putty(desk, "plink"), "-ssh", "127.0.0.1", "cat; echo oops >&2; exit 4", stdin=b"typed")
    assert (ran.status, ran.out, "oops\n" in ran.err) == (4, b"typed", True), ran
    return [Kept(Action.SSH_EXEC, "cat;", 4, out=b"typed", into=b"typed", err=b"oops\n")]


async def pscp(desk: Desk) -> list[Kept]:
    """Over SFTP, which it prefers, and by the protocol of its own."""
    data, command = content(desk), await putty(desk, "pscp")
    for way in ("-sftp", "-scp"):
        await desk.must(*command, way, "local", f"127.0.0.1:pscp{way}")
        await desk.must(*command, way, f"127.0.0.1:pscp{way}", f"back{way}")
        assert (desk.home / f"pscp{way}").read_bytes() == (desk.folder / f"back{way}").read_bytes() == data
    return [
        *[Kept(SFTP, files=[data], marks=["pscp-sftp"])] * 2,
        Kept(WRITES, "scp -t", files=[data], marks=["pscp-scp"]),
        Kept(SFTP, "scp -f", files=[data], marks=["pscp-scp"]),
    ]


async def psftp(desk: Desk) -> list[Kept]:
    data = content(desk)
    (desk.folder / "batch").write_text("mkdir ps\nput local ps/one\nmv ps/one ps/two\nget ps/two back\nls ps\nquit\n")
    said = await desk.must(*await putty(desk, "psftp"), "-b", "batch", "127.0.0.1")
    assert b"two" in said
    assert (desk.folder / "back").read_bytes() == data
    return [Kept(SFTP, files=[data], marks=["ps/one", "ps/two"])]


# Those that know no certificates log in by a code in the browser ------------------------------------------------------


async def dbclient(desk: Desk) -> list[Kept]:
    (desk.folder / ".ssh").mkdir()
    (desk.folder / ".ssh/known_hosts").write_text(f"127.0.0.1 {desk.host_key}\n")
    command = [str(find_tool("dbclient")), "-p", str(desk.port), "-l", NAME, "127.0.0.1", "echo reached; exit 8"]
    async with Client(command, desk.folder) as client:
        await desk.confirm(await client.code())
        assert await client.status() == 8, client.seen
        assert b"reached" in client.seen
    return [Kept(Action.SSH_EXEC, "echo reached", 8, out=Content(b"reached"))]


async def node_ssh2(desk: Desk) -> list[Kept]:
    """Node's client, in which many tools are written; exec and SFTP over one connection."""
    data = content(desk)
    host_key = desk.host_key.split()[1]
    client = await desk.start(
        UNPACKED / "provider/node", HERE / "node/client.mjs", str(desk.port), NAME, host_key, "local", "back",
        more={"NODE_PATH": str(UNPACKED / "provider/client/node_modules")},
    )  # fmt: skip
    await desk.confirm(await _code(client))
    ran = await desk.end(client)
    assert ran.status == 0, ran
    assert json.loads(ran.out) == {"out": "typed", "err": "oops\n", "status": 4}
    assert (desk.folder / "back").read_bytes() == (desk.home / "from-node").read_bytes() == data
    return [
        Kept(Action.SSH_EXEC, "cat; echo oops", 4, out=b"typed", into=b"typed", err=b"oops\n"),
        Kept(SFTP, files=[data], marks=["from-node"], may_leave=True),
    ]


async def _code(client: Running) -> str:
    """The code that a client shows on its standard error."""
    assert client.stderr is not None
    seen = b""
    while (found := CODE.search(seen)) is None:
        line = await client.stderr.readline()
        assert line, seen
        seen += line
    return found[1].decode()


# Python ---------------------------------------------------------------------------------------------------------------


async def paramiko(desk: Desk) -> list[Kept]:
    """Fabric and much else is built on it: exec and SFTP over one connection, with a certificate."""
    data = content(desk)
    said = await desk.must(
        sys.executable, HERE / "paramiko_visit.py", str(desk.port), NAME, desk.host_key, desk.key,
        desk.certificate,
    )  # fmt: skip
    assert json.loads(said) == {"out": "typed", "err": "oops\n", "status": 4}
    assert (desk.folder / "back").read_bytes() == (desk.home / "from-paramiko").read_bytes() == data
    return [
        Kept(Action.SSH_EXEC, "cat; echo oops", 4, out=b"typed", into=b"typed", err=b"oops\n"),
        Kept(SFTP, files=[data], marks=["from-paramiko"], may_leave=True),
    ]


PLAYBOOK = """\
- hosts: all
  gather_facts: false
  tasks: [shell: "printf %s 'of {{ inventory_hostname }}' > ansible/{{ inventory_hostname }}"]
"""


async def ansible(desk: Desk, settings: Environment) -> None:
    """Run the playbook on twenty hosts at once, which are all our one target."""
    names = [f"h{number}" for number in range(FORKS)]
    made = desk.home / "ansible"
    made.mkdir()
    (desk.folder / "playbook.yml").write_text(PLAYBOOK)
    line = f"ansible_host={HOST} ansible_python_interpreter={sys.executable}"
    (desk.folder / "inventory").write_text("".join(f"{name} {line}\n" for name in names))
    fixed = {"ANSIBLE_SSH_COMMON_ARGS": f"-F {desk.config}", "ANSIBLE_HOME": str(desk.folder), "ANSIBLE_NOCOWS": "1"}
    said = await desk.must(
        Path(sys.executable).with_name("ansible-playbook"), "-i", "inventory", "-f", str(FORKS), "playbook.yml",
        more=fixed | dict(settings),
    )  # fmt: skip
    assert said.count(b"failed=0") == said.count(b"unreachable=0") == FORKS, said
    assert {path.name: path.read_text() for path in made.iterdir()} == {name: f"of {name}" for name in names}
    shutil.rmtree(made)


async def ansible_pipelining(desk: Desk) -> list[Kept]:
    """Modules go through standard input; each host by a login of its own."""
    await ansible(desk, {"ANSIBLE_PIPELINING": "True", "ANSIBLE_SSH_ARGS": "-o ControlMaster=no"})
    return [Kept(Action.SSH_EXEC, several=True)]


async def ansible_without_pipelining(desk: Desk) -> list[Kept]:
    """Modules are copied first, by SFTP; all hosts over the one connection that Ansible keeps open."""
    masters = desk.folder / "cp"
    await ansible(desk, {"ANSIBLE_PIPELINING": "False", "ANSIBLE_SSH_CONTROL_PATH_DIR": str(masters)})
    for master in masters.iterdir():
        await desk.run(*desk.ssh, "-S", str(master), "-O", "exit", HOST)
    return [Kept(Action.SSH_EXEC, several=True), Kept(SFTP, several=True)]
