"""Files through the bastion: each direction is asked of the policies, and limits hold for OpenSSH's own clients."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bastion.adapters.policy import CedarPolicies
from bastion.core.policy import Action
from bastion.core.session import End, Session
from tests.gateways.test_ssh_visit import recorded
from tests.world import POLICY, WEB_STAGING, Finished, World, person, until, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME = f"deploy@{WEB_STAGING}"
READ, WRITE = Action.SSH_SFTP_READ, Action.SSH_SFTP_WRITE

FILES = """
@id("readers-do-not-write")
forbid (principal in Group::"readers", action == Action::"ssh:sftp_write", resource);
@id("small-uploads")
@paths("/**/nowhere/")
@max_file_size("100KiB")
permit (principal in Group::"uploaders", action == Action::"ssh:sftp_write", resource);
@id("small-files")
@max_file_size("100KiB")
permit (principal in Group::"small", action in [Action::"ssh:sftp_read", Action::"ssh:sftp_write"], resource);
"""


def policy(home: Path) -> str:
    return POLICY + FILES.replace("/**/nowhere/", f"{home}/upload/")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bastion(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("files").resolve()
    async with world(folder, policy=policy(folder / "staging" / "home" / "deploy")) as running:
        yield running


async def ready(bastion: World, name: str, *groups: str, actions: frozenset[Action] = frozenset({READ, WRITE})) -> Path:
    """Somebody with a grant for files and a certificate; their key."""
    identity = person(name, frozenset(groups or {"contractors"}))
    await bastion.grant(identity, actions=actions)
    return await bastion.certify(identity)


def home(bastion: World) -> Path:
    return bastion.staging.home("deploy").resolve()


async def sftp(bastion: World, key: Path, *commands: str) -> Finished:
    """Every command, also after one that failed."""
    batch = bastion.folder / f"batch-{key.name}"
    batch.write_text("".join(f"-{command}\n" for command in commands))
    return await bastion.ssh(key, "-b", str(batch), NAME, program="sftp")


async def last(bastion: World, key: Path) -> Session:
    """The newest session of the key's holder, when it is over."""
    subject = key.name.removeprefix("id_")

    async def theirs() -> list[Session]:
        found = [one for one in await bastion.store.sessions() if one.identity.subject == subject]
        return sorted(found, key=lambda one: one.started_at)

    async def over() -> bool:
        return all(one.ended_at for one in await theirs())

    await until(over)
    return (await theirs())[-1]


async def lines(bastion: World, key: Path) -> str:
    return recorded(await bastion.transcript(await last(bastion, key)), "m").decode()


async def test_a_grant_to_write_alone_opens_sftp_and_nothing_is_read(bastion: World, tmp_path: Path) -> None:
    key = await ready(bastion, "wanda", actions=frozenset({WRITE}))
    (tmp_path / "new").write_bytes(b"new")
    ran = await sftp(bastion, key, f"put {tmp_path}/new wanda", f"get wanda {tmp_path}/back", "ls")
    assert (home(bastion) / "wanda").read_bytes() == b"new"
    assert not (tmp_path / "back").exists()
    assert "bastion: Your grant does not include ssh:sftp_read." in ran.err
    assert (await last(bastion, key)).action is WRITE


async def test_a_policy_that_forbids_writing_is_asked_though_the_session_began_with_reading(
    bastion: World, tmp_path: Path
) -> None:
    key = await ready(bastion, "rudi", "readers")
    (home(bastion) / "rudi").write_bytes(b"kept")
    (tmp_path / "new").write_bytes(b"new")
    await sftp(bastion, key, f"put {tmp_path}/new rudi", "rm rudi", f"get rudi {tmp_path}/back")
    assert (home(bastion) / "rudi").read_bytes() == b"kept"
    assert (tmp_path / "back").read_bytes() == b"kept"
    assert "refused: your grant does not include ssh:sftp_write" in await lines(bastion, key)


async def test_uploads_stay_within_the_paths_and_sizes_of_a_policy(bastion: World, tmp_path: Path) -> None:
    key = await ready(bastion, "ulla", "uploaders")
    upload = home(bastion) / "upload"
    upload.mkdir()
    (upload / "out").symlink_to("..")
    (home(bastion) / "read-me").write_bytes(b"hello")
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(os.urandom(100 * 1024))
    large.write_bytes(os.urandom(300 * 1024))
    await sftp(
        bastion, key, f"put {small} upload/small", f"put {small} outside", f"put {small} upload/out/outside",
        f"put {small} upload/../outside", f"put {large} upload/large", "rename upload/small upload/renamed",
        "ln -s .. upload/way", f"get read-me {tmp_path}/read", "mkdir upload/sub", f"put {small} upload/sub/",
    )  # fmt: skip
    assert (upload / "renamed").read_bytes() == small.read_bytes()
    assert (upload / "sub/small").read_bytes() == small.read_bytes()
    assert not (home(bastion) / "outside").exists()
    assert (upload / "large").stat().st_size <= 100 * 1024
    assert not (upload / "way").is_symlink()
    assert (tmp_path / "read").read_bytes() == b"hello"
    said = await lines(bastion, key)
    assert f'"{home(bastion)}/outside" is outside of the paths of this session' in said
    assert "refused: files of at most 102400 bytes are allowed" in said
    assert hashlib.sha256(small.read_bytes()).hexdigest() in said


async def test_scp_over_sftp_obeys_the_same_limits(bastion: World, tmp_path: Path) -> None:
    key = await ready(bastion, "suse", "uploaders")
    (home(bastion) / "upload").mkdir(exist_ok=True)
    (tmp_path / "new").write_bytes(b"new")
    inside = await bastion.ssh(key, str(tmp_path / "new"), f"{NAME}:{home(bastion)}/upload/suse", program="scp")
    assert inside.status == 0, inside.err
    outside = await bastion.ssh(key, str(tmp_path / "new"), f"{NAME}:suse", program="scp")
    assert outside.status != 0
    assert not (home(bastion) / "suse").exists()


async def test_a_policy_that_allows_less_ends_the_sessions_that_had_more(bastion: World) -> None:
    key = await ready(bastion, "lena", "contractors")
    process = await asyncio.create_subprocess_exec(
        "sftp", *bastion.ssh_options(key), NAME,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"pwd\n")
    async with asyncio.timeout(20):
        while b"working directory" not in await process.stdout.readline():
            pass
    await bastion.supervision.review_all()
    assert process.returncode is None
    less = policy(home(bastion)).replace('Group::"uploaders"', 'Group::"contractors"')
    bastion.policies.replace(CedarPolicies(less, bastion.catalogue))
    try:
        await bastion.supervision.review_all()
        _, said = await asyncio.wait_for(process.communicate(b"ls\n"), 20)
    finally:
        bastion.policies.replace(CedarPolicies(policy(home(bastion)), bastion.catalogue))
    assert "The policy changed" in said.decode()
    assert (await last(bastion, key)).end is End.POLICY


# ------------------------------------------------------------------------------------------------- scp's own protocol


async def scp(bastion: World, key: Path, *arguments: str) -> Finished:
    return await bastion.ssh(key, "-O", *arguments, program="scp")


async def test_old_scp_needs_the_rights_of_files_and_each_file_is_a_line(bastion: World, tmp_path: Path) -> None:
    key = await ready(bastion, "olga")
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    sizes = {"empty": 0, "small": 10, "deep/large": 700_000, "deep/odd \x1b\"'": 5, "x" * 255: 3}
    for name, size in sizes.items():
        (tree / name).write_bytes(os.urandom(size))
    there = await scp(bastion, key, "-r", "-p", str(tree), f"{NAME}:olga")
    assert there.status == 0, there.err
    said = await lines(bastion, key)
    back = await scp(bastion, key, "-r", f"{NAME}:olga", str(tmp_path / "back"))
    assert back.status == 0, back.err
    told = await lines(bastion, key)
    for name, size in sizes.items():
        content = (tree / name).read_bytes()
        assert (home(bastion) / "olga" / name).read_bytes() == content
        digest = f"{size} bytes sha256 {hashlib.sha256(content).hexdigest()} in order"
        assert f"written {digest}" in said
        assert f"read {digest}" in told
    assert 'scp write "tree/deep/large" to "olga" mode ' in said
    assert 'scp write "tree/deep/odd \\x1b\\"' in said
    assert "\x1b" not in said + told
    assert (await last(bastion, key)).action is READ


async def test_old_scp_is_refused_where_its_direction_is(bastion: World, tmp_path: Path) -> None:
    key = await ready(bastion, "rosa", "readers", actions=frozenset({READ, WRITE, Action.SSH_EXEC}))
    (home(bastion) / "rosa").write_bytes(b"kept")
    (tmp_path / "new").write_bytes(b"new")
    refused = await scp(bastion, key, str(tmp_path / "new"), f"{NAME}:rosa")
    assert refused.status != 0
    assert "readers-do-not-write" in refused.err
    assert (home(bastion) / "rosa").read_bytes() == b"kept"
    read = await scp(bastion, key, f"{NAME}:rosa", str(tmp_path / "back"))
    assert (read.status, (tmp_path / "back").read_bytes()) == (0, b"kept")


async def test_what_is_more_than_scp_needs_the_right_to_run_commands(bastion: World) -> None:
    key = await ready(bastion, "egon")
    (home(bastion) / "egon.txt").write_bytes(b"x")
    for command in (
        "scp -f x; touch egon-was-here",
        "scp -f $(touch egon-was-here)",
        "scp -f egon*",
        "scp -f x\ntouch y",
    ):
        ran = await bastion.ssh(key, NAME, command)
        assert ran.status == 254
        assert "ssh:exec" in ran.err
    assert not (home(bastion) / "egon-was-here").exists()


async def test_old_scp_keeps_to_sizes_and_is_refused_where_paths_are_limited(bastion: World, tmp_path: Path) -> None:
    key = await ready(bastion, "uwe", "uploaders")
    upload = home(bastion) / "upload"
    upload.mkdir(exist_ok=True)
    (tmp_path / "new").write_bytes(b"new")
    refused = await scp(bastion, key, str(tmp_path / "new"), f"{NAME}:{upload}/uwe")
    assert refused.status != 0
    assert "Paths are limited here, and scp's old protocol cannot be held to them" in refused.err
    assert not (upload / "uwe").exists()
    small = await ready(bastion, "mia", "small")
    (home(bastion) / "mia").mkdir()
    (tmp_path / "large").write_bytes(os.urandom(200 * 1024))
    mixed = await scp(bastion, small, str(tmp_path / "large"), str(tmp_path / "new"), f"{NAME}:mia")
    assert mixed.status != 0
    assert "files of at most 102400 bytes are allowed" in mixed.err
    assert (home(bastion) / "mia/new").read_bytes() == b"new"
    assert not (home(bastion) / "mia/large").exists()
    (home(bastion) / "big").write_bytes(os.urandom(200 * 1024))
    got = await scp(bastion, small, f"{NAME}:big", str(tmp_path / "got"))
    assert got.status != 0
    assert not (tmp_path / "got").exists()


# ---------------------------------------------------------------------------------------------------- grants with paths


async def test_a_grant_for_paths_opens_them_and_no_shell(bastion: World, tmp_path: Path) -> None:
    pia = person("pia", frozenset({"contractors"}))
    inside = home(bastion) / "pia"
    inside.mkdir()
    (inside / "log").write_bytes(b"log")
    (inside / "out").symlink_to(home(bastion))
    (home(bastion) / "secret").write_bytes(b"secret")
    await bastion.grant(pia, paths=frozenset({f"{inside}/"}))
    key = await bastion.certify(pia)
    ran = await sftp(
        bastion, key, f"get {inside}/log {tmp_path}/log", f"get {inside}/out/secret {tmp_path}/a",
        f"get {inside}/../secret {tmp_path}/b", f"get secret {tmp_path}/c", f"put {tmp_path}/log {inside}/back",
    )  # fmt: skip
    assert (tmp_path / "log").read_bytes() == b"log"
    assert (inside / "back").read_bytes() == b"log"
    assert not any((tmp_path / name).exists() for name in "abc")
    assert "bastion: That is outside of the paths that you may use." in ran.err
    shell = await bastion.ssh(key, NAME, "true")
    assert shell.status == 254
    assert f"is for files in {inside}/, not for ssh:exec" in shell.err
