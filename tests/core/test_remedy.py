"""What kind of login would do: how it is written, read, said and compared."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.identity import Strength
from bastion.core.remedy import Remedy, least

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
PHR = "urn:example:phr"

acrs = st.none() | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)
methods = st.frozensets(st.from_regex(r"[A-Za-z0-9_.:+-]{1,64}", fullmatch=True), max_size=8)


@given(st.builds(Remedy, acrs, methods))
def test_what_is_written_is_read_back_from_texts_and_from_urls(remedy: Remedy) -> None:
    assert Remedy.parse(str(remedy)) == remedy
    assert Remedy.of_query(remedy.query) == remedy


@pytest.mark.parametrize(
    "text",
    [
        "", "FRESH", "fresh ", "mfa\n", "acr=", "amr=", "acr=a b", "acr=é", f"acr={'a' * 256}", "amr=a,,b", "amr=a b",
        "amr=hwk acr=urn:x", "amr=" + ",".join("abcdefghi"), 'amr="hwk"', "other=1",
    ],
)  # fmt: skip
def test_what_no_issuer_could_be_asked_for_is_no_remedy(text: str) -> None:
    with pytest.raises(ValueError, match="is neither fresh nor mfa"):
        Remedy.parse(text)


def test_a_page_that_asks_for_nothing_asks_for_any_login() -> None:
    assert Remedy.of_query({"next": "/device/BCDF-BCDF"}) is None


@pytest.mark.parametrize(
    ("remedy", "sentence"),
    [
        (Remedy.FRESH, "A fresh login would do: bastion login --fresh"),
        (Remedy.MFA, "A fresh login with a second factor would do: bastion login --mfa"),
        (Remedy(PHR), f"A fresh login of the kind {PHR} would do: bastion login --acr {PHR}"),
        (Remedy(amr=frozenset({"pin", "hwk"})), "A fresh login by hwk and pin would do: bastion login --amr hwk,pin"),
        (
            Remedy("a'b;c", frozenset({"hwk", "mfa"})),
            "A fresh login of the kind a'b;c by hwk with a second factor would do: "
            """bastion login --acr 'a'"'"'b;c' --amr hwk,mfa""",
        ),
    ],
)
def test_people_read_what_to_do(remedy: Remedy, sentence: str) -> None:
    assert remedy.sentence == sentence


@pytest.mark.parametrize(
    ("acr", "amr", "is_met"),
    [
        (PHR, {"hwk", "pin"}, True),
        (PHR, {"hwk", "pin", "mfa"}, True),
        (PHR, {"hwk"}, False),
        ("urn:example:ph", {"hwk", "pin"}, False),
        (None, {"hwk", "pin"}, False),
    ],
)
def test_it_takes_exactly_the_acr_and_every_method(acr: str | None, amr: set[str], is_met: bool) -> None:
    wanted = Remedy(PHR, frozenset({"hwk", "pin"}))
    assert wanted.is_met_by(Strength(NOW, frozenset(amr), acr)) is is_met
    assert Remedy.FRESH.is_met_by(Strength(NOW, frozenset(amr), acr))


def test_of_several_the_one_that_asks_for_least_is_said() -> None:
    in_order = [Remedy.FRESH, Remedy(amr=frozenset({"hwk"})), Remedy(amr=frozenset({"hwk", "pin"})), Remedy(PHR)]
    while in_order:
        assert least([None, *reversed(in_order)]) == in_order.pop(0)
    assert least([None]) is None
