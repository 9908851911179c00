"""Which paths and sizes are within what a session may touch."""

from __future__ import annotations

import posixpath
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.errors import Refused
from bastion.core.files import FileRights, Limits, Paths, parse_paths, parse_size, strictest

SOME = Paths(parse_paths(["/var/log/", "/srv/*/re*p*t.pdf", "/etc/motd", " /srv/upload/** "]))


@pytest.mark.parametrize(
    "path",
    [
        "/var/log",
        "/var/log/x/y z",
        "/srv/q/report.pdf",
        "/srv/q/repppt.pdf",
        "/etc/motd",
        "/srv/upload/...",
        "/var/log/\n",
    ],
)  # fmt: skip
def test_what_is_written_holds_itself_and_what_lies_in_its_folders(path: str) -> None:
    assert SOME.hold(path.encode())


@pytest.mark.parametrize(
    "path",
    [
        "/", "", "/var", "/var/logs", "/var/log/", "/var/log//x", "/var/log/../x", "/var/log/.", "var/log", "//var/log",
        "/srv/q/r/report.pdf", "/srv/report.pdf", "/srv/q/report.pdf/x", "/etc/motd/x", "/etc/motd.old", "/var/log\0",
        "/srv/q/report.pdf\n",
    ],
)  # fmt: skip
def test_nothing_else_is_held(path: str) -> None:
    assert not SOME.hold(path.encode())


@pytest.mark.parametrize("path", ["/", "/var", "/srv", "/srv/anything", "/etc", "/var/log/x"])
def test_folders_on_the_way_may_be_looked_at(path: str) -> None:
    assert SOME.lead_to(path.encode())


@pytest.mark.parametrize("path", ["", "/va", "/varx", "/home", "/var/lo", "/etc/passwd", "/srv/a/b", "/var/.."])
def test_folders_that_lead_elsewhere_may_not(path: str) -> None:
    assert not SOME.lead_to(path.encode())


def test_no_paths_hold_nothing() -> None:
    assert not Paths(frozenset()).lead_to(b"/")


@pytest.mark.parametrize(
    "text",
    ["", "x", "/", "/**", "//", "/a/**/b", "/a/../b", "/a/./b", "/a//b", "/a/?", "/[a]", "/{a,b}", "/a\n/b", "/a\\b",
     "/**a", "~/x", "/" + "x" * 256, "/\udc80", "/" + "x/" * 600],
)  # fmt: skip
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        parse_paths([text])


def test_too_many_paths_are_refused() -> None:
    with pytest.raises(Refused, match="At most 20"):
        parse_paths(f"/{n}" for n in range(21))


NAMES = st.text("ab*.é", min_size=1, max_size=6).filter(lambda name: name not in (".", "..") and "**" not in name)


@given(st.lists(NAMES, min_size=1, max_size=3), st.booleans(), st.lists(st.text("ab.é/", max_size=5), max_size=4))
def test_a_star_is_any_part_of_one_name(names: list[str], is_folder: bool, asked: list[str]) -> None:
    written = "/" + "/".join(names) + ("/" if is_folder else "")
    path = "/" + "/".join(asked)
    plain = "/" + "/".join(re.escape(name).replace(r"\*", "[^/]*") for name in names) + ("(/.*)?" if is_folder else "")
    expected = path == posixpath.normpath(path) and not path.startswith("//") and re.fullmatch(plain, path) is not None
    assert Paths(parse_paths([written])).hold(path.encode()) == expected


def test_many_stars_do_not_take_long() -> None:
    assert not Paths(parse_paths(["/" + "a*" * 100 + "b"])).hold(b"/" + b"a" * 4000)


@pytest.mark.parametrize(("text", "size"), [("1B", 1), ("100MiB", 100 << 20), ("2 GiB", 2 << 30), ("0KiB", 0)])
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "1", "1MB", "-1MiB", "1.5GiB", "1e3B", "MiB", "٣MiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="as in 100MiB"):
        parse_size(text)


def test_of_several_limits_all_must_hold() -> None:
    logs, all_of_var = Paths(parse_paths(["/var/log/"])), Paths(parse_paths(["/var/"]))
    both = strictest([Limits(frozenset({logs}), 5), Limits(frozenset({all_of_var})), Limits(max_size=7)])
    assert both == Limits(frozenset({logs, all_of_var}), 5)
    assert both.hold(b"/var/log/x")
    assert not both.hold(b"/var/x")
    assert both.exceeded_by(6)
    assert not both.exceeded_by(5)
    assert strictest([]) == Limits()


def test_rights_that_became_less_are_noticed() -> None:
    narrow, wide = Limits(frozenset({SOME}), 5), Limits()
    assert FileRights(read=narrow).are_no_wider_than(FileRights(read=wide, write=wide))
    assert FileRights().are_no_wider_than(FileRights())
    for before, now in (
        (FileRights(read=wide), FileRights(write=wide)),
        (FileRights(read=wide), FileRights(read=narrow)),
        (FileRights(write=Limits(max_size=5)), FileRights(write=Limits(max_size=4))),
        (FileRights(write=Limits(max_size=5)), FileRights(write=narrow)),
    ):
        assert not before.are_no_wider_than(now)
