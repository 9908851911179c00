"""Tokens, verifiers and the steps of a login, below HTTP."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from bastion.access.doorstep import Doorstep
from bastion.access.keeping import Keeping
from bastion.access.login import STATE_LIFETIME, UNMET, Answer, Issuer, LoggedIn, Login, ToPage
from bastion.access.pkce import challenge_of, matches, new_secret
from bastion.access.throttle import Throttle
from bastion.access.tokens import LIFETIME, MAX_TOKEN, Audience, Tokens, TokenSigner
from bastion.adapters.coordination.memory import MemoryCoordination
from bastion.adapters.geo import MaxMindLocator
from bastion.adapters.store import open_store
from bastion.core.audit import EventFilter
from bastion.core.errors import NotFound, Refused, Unauthenticated, Unavailable
from bastion.core.geofence import Address, Place, parse_address
from bastion.core.identity import (
    ClaimMapping,
    Identity,
    IdentityId,
    IdentityKind,
    Proof,
    StepUp,
    Strength,
    VerifiedClaims,
)
from bastion.core.remedy import Remedy
from bastion.core.target import Catalogue
from bastion.ports import Locator, Store, Transaction
from tests.fakes import FakeClock
from tests.services.identity import INSIDE, fenced

URL = "https://bastion.example.com"
HERE = parse_address(INSIDE)
BINDING = "b" * 43


def alice(clock: FakeClock, groups: frozenset[str] = frozenset({"contractors"})) -> Identity:
    return Identity(
        IdentityId("https://login.example.com", "alice"),
        "alice@corp.example",
        "Alice",
        groups,
        IdentityKind.PERSON,
        clock.now(),
        frozenset({"mfa"}),
        "urn:example:mfa",
    )


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def signer(key: Ed25519PrivateKey, clock: FakeClock) -> TokenSigner:
    return TokenSigner(key=key, issuer=URL, clock=clock)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(f"sqlite:///{tmp_path}/bastion.db")
    yield store
    await store.close()


@pytest.fixture
async def coordination(clock: FakeClock) -> AsyncIterator[MemoryCoordination]:
    coordination = MemoryCoordination(clock=clock)
    yield coordination
    await coordination.close()


@pytest.fixture
def tokens(signer: TokenSigner, store: Store, coordination: MemoryCoordination, clock: FakeClock) -> Tokens:
    return Tokens(signer=signer, store=store, coordination=coordination, clock=clock)


async def remember(store: Store, identity: Identity, clock: FakeClock) -> None:
    async with store.transaction() as transaction:
        await transaction.save_identity(identity, clock.now())


# ------------------------------------------------------------------------------------------------------------- tokens


def test_a_token_says_who_logged_in_and_when(signer: TokenSigner, clock: FakeClock) -> None:
    claims = signer.verify(signer.sign(alice(clock), Audience.API).text, Audience.API)
    assert claims.identity == alice(clock).id
    assert claims.groups == {"contractors"}
    assert claims.strength == Strength(clock.now(), frozenset({"mfa"}), "urn:example:mfa")
    assert claims.expires_at == clock.now() + LIFETIME


@pytest.mark.parametrize("audience", Audience)
def test_one_kind_of_token_is_not_taken_for_another(signer: TokenSigner, clock: FakeClock, audience: Audience) -> None:
    token = signer.sign(alice(clock), audience).text
    for other in set(Audience) - {audience}:
        with pytest.raises(Unauthenticated, match="not a login of this bastion"):
            signer.verify(token, other)


def test_a_token_is_over_to_the_second(signer: TokenSigner, clock: FakeClock) -> None:
    token = signer.sign(alice(clock), Audience.API).text
    clock.advance(LIFETIME - timedelta(seconds=1))
    signer.verify(token, Audience.API)
    clock.advance(timedelta(seconds=1))
    with pytest.raises(Unauthenticated, match="is over"):
        signer.verify(token, Audience.API)


def test_a_token_that_is_longer_than_any_header_is_not_even_read(signer: TokenSigner) -> None:
    with pytest.raises(Unauthenticated, match="too long"):
        signer.verify("e" * (MAX_TOKEN + 1), Audience.API)


def payload(token: str) -> dict[str, Any]:
    body: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return body


FORGERIES = {
    "for both": {"aud": ["bastion-api", "bastion-browser"]},
    "for the one in a list": {"aud": ["bastion-api"]},
    "by another bastion": {"iss": "https://other.example.com"},
    "good for a day": {"exp": 2**31},
    "from tomorrow": {"iat": 2**31 - 60, "exp": 2**31},
    "without an end": {"exp": None},
    "without an id": {"jti": None},
    "without a subject": {"sub": None},
    "with a number for an id": {"jti": 7},
    "with an end that is no number": {"exp": "soon"},
    "with an end beyond time": {"exp": 10**30, "iat": 10**30},
    "with an end that is NaN": {"exp": float("nan")},
    "with groups that are no list": {"groups": 7},
    "with groups that are no text": {"groups": [[]]},
    "authenticated at no time": {"auth_time": 10**30},
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_a_token_signed_by_our_key_but_shaped_otherwise_is_refused(
    key: Ed25519PrivateKey, signer: TokenSigner, clock: FakeClock, change: dict[str, Any]
) -> None:
    body = payload(signer.sign(alice(clock), Audience.API).text) | change
    body = {name: value for name, value in body.items() if value is not None}
    with pytest.raises(Unauthenticated):
        signer.verify(sign_anything(body, key), Audience.API)


def sign_anything(body: dict[str, Any], key: Ed25519PrivateKey, header: dict[str, Any] | None = None) -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    signed = f"{part(json.dumps(header or {'alg': 'EdDSA', 'typ': 'JWT'}).encode())}.{part(json.dumps(body).encode())}"
    return f"{signed}.{part(key.sign(signed.encode()))}"


def test_a_token_that_we_did_not_sign_is_refused(key: Ed25519PrivateKey, signer: TokenSigner, clock: FakeClock) -> None:
    token = signer.sign(alice(clock), Audience.API).text
    body = payload(token)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    head, middle, signature = token.split(".")
    forged = [
        sign_anything(body, Ed25519PrivateKey.generate()),
        jwt.encode(body, "", algorithm="none"),
        jwt.encode(body, public, algorithm="HS256"),
        f"{head}.{middle}.",
        f"{head}.{middle}",
        f"{head}.{middle}.{signature[:-4]}AAAA",
        sign_anything(body, key, {"alg": "EdDSA", "crit": ["x"], "x": 1}),
        token + "." + signature,
        "",
        "a" * 100_000,
    ]
    for unverified in forged:
        with pytest.raises(Unauthenticated):
            signer.verify(unverified, Audience.API)


@given(st.text())
def test_no_text_makes_the_verifier_fail(text: str) -> None:
    signer = TokenSigner(key=Ed25519PrivateKey.generate(), issuer=URL, clock=FakeClock())
    with pytest.raises(Unauthenticated):
        signer.verify(text, Audience.API)


async def test_a_token_counts_until_it_is_ended(tokens: Tokens, store: Store, clock: FakeClock) -> None:
    await remember(store, alice(clock), clock)
    token, other = [await tokens.issue(alice(clock), Audience.API) for _ in range(2)]
    identity, claims = await tokens.identity(token.text, Audience.API)
    assert identity == alice(clock)
    await tokens.end(claims)
    await tokens.end(claims)
    with pytest.raises(Unauthenticated, match="logged out"):
        await tokens.identity(token.text, Audience.API)
    assert (await tokens.identity(other.text, Audience.API))[0] == identity


async def test_a_lost_coordination_asks_everybody_to_log_in_again(
    tokens: Tokens, signer: TokenSigner, store: Store, clock: FakeClock
) -> None:
    await remember(store, alice(clock), clock)
    token = await tokens.issue(alice(clock), Audience.API)
    empty = MemoryCoordination(clock=clock)
    restarted = Tokens(signer=signer, store=store, coordination=empty, clock=clock)
    with pytest.raises(Unauthenticated):
        await restarted.identity(token.text, Audience.API)
    await empty.close()


@pytest.mark.parametrize("now", [frozenset[str](), frozenset({"contractors", "sre"})], ids=["fewer", "more"])
async def test_a_token_with_stale_groups_is_refused(
    tokens: Tokens, store: Store, clock: FakeClock, now: frozenset[str]
) -> None:
    await remember(store, alice(clock), clock)
    token = await tokens.issue(alice(clock), Audience.API)
    await remember(store, alice(clock, now), clock)
    with pytest.raises(Unauthenticated, match="groups have changed"):
        await tokens.identity(token.text, Audience.API)


async def test_how_somebody_authenticated_is_this_logins_and_not_a_later_ones(
    tokens: Tokens, store: Store, clock: FakeClock
) -> None:
    plain = replace(alice(clock), amr=frozenset({"pwd"}), acr="urn:example:pwd")
    await remember(store, plain, clock)
    token = await tokens.issue(plain, Audience.API)
    clock.advance(timedelta(minutes=5))
    await remember(store, replace(alice(clock), amr=frozenset({"mfa"})), clock)
    identity, _ = await tokens.identity(token.text, Audience.API)
    assert identity.strength == plain.strength


async def test_a_token_of_somebody_unknown_is_refused(tokens: Tokens, clock: FakeClock) -> None:
    token = await tokens.issue(alice(clock), Audience.API)
    with pytest.raises(Unauthenticated, match="not known"):
        await tokens.identity(token.text, Audience.API)


def test_a_token_is_not_shown_by_accident(signer: TokenSigner, clock: FakeClock) -> None:
    token = signer.sign(alice(clock), Audience.API)
    assert token.text not in repr(token)


# --------------------------------------------------------------------------------------------------------- verifiers


def test_the_challenge_is_the_one_of_the_rfc() -> None:
    # RFC 7636, appendix B.
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert challenge_of(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    assert matches(challenge_of(verifier), verifier)
    assert not matches(verifier, verifier)


@given(st.text())
def test_no_other_text_is_the_verifier(text: str) -> None:
    assert not matches(challenge_of("v" * 43), text)


# ------------------------------------------------------------------------------------------------------------- steps


class StaticProvider:
    """An issuer that says what it was given; what it was asked is kept."""

    def __init__(self, issuer: str, clock: FakeClock) -> None:
        self.issuer = issuer
        self.asked: list[tuple[str, ...]] = []
        self.wanted: StepUp | None = None
        self.claims: dict[str, Any] = {}
        self._clock = clock

    async def authorization_url(
        self, state: str, nonce: str, code_challenge: str, redirect_uri: str, step_up: StepUp | None = None
    ) -> str:
        self.asked.append((state, nonce, code_challenge, redirect_uri))
        self.wanted = step_up
        return f"{self.issuer}/authorize?state={state}"

    async def redeem(self, code: str, code_verifier: str, redirect_uri: str, nonce: str, iss: str | None) -> Proof:
        state, right_nonce, challenge, right_redirect = self.asked[-1]
        assert (nonce, redirect_uri) == (right_nonce, right_redirect)
        assert matches(challenge, code_verifier)
        return Proof(
            VerifiedClaims(self.issuer, "alice", {"groups": ["admins"]} | self.claims, self._clock.now()), "id-token"
        )


class PlainSeal:
    """Seals nothing, and opens only what is about the same."""

    def close(self, plain: bytes, about: bytes) -> bytes:
        return about + b"\n" + plain

    def open(self, sealed: bytes, about: bytes) -> bytes:
        assert sealed.startswith(about + b"\n")
        return sealed.removeprefix(about + b"\n")


def make_login(
    store: Store,
    coordination: MemoryCoordination,
    clock: FakeClock,
    catalogue: Catalogue | None = None,
    providers: list[StaticProvider] | None = None,
    mapping: ClaimMapping | None = None,
    locator: Locator | None = None,
) -> tuple[Login, list[StaticProvider]]:
    if providers is None:
        providers = [StaticProvider(f"https://{name}.example.com", clock) for name in ("one", "two")]
    doorstep = Doorstep(
        locator=locator or MaxMindLocator(None, {ip_network("127.0.0.0/26"): "DE"}, clock=clock),
        catalogue=catalogue or fenced(),
        throttle=Throttle(coordination=coordination, store=store, clock=clock, node="node-1"),
        store=store,
        clock=clock,
        node="node-1",
    )
    login = Login(
        issuers=[
            Issuer(providers[0], mapping or ClaimMapping()),
            Issuer(providers[1], ClaimMapping(group_prefix="two:")),
        ],
        public_url=URL,
        doorstep=doorstep,
        keeping=Keeping(seal=PlainSeal()),
        store=store,
        coordination=coordination,
        clock=clock,
        node="node-1",
    )
    return login, providers


def returned(url: str, **changed: str | None) -> Answer:
    answer = {"state": url.partition("state=")[2], "code": "code", "iss": None, "error": None}
    return Answer(**(answer | changed))


async def test_each_issuer_has_its_own_way_back_and_prefix(
    store: Store, coordination: MemoryCoordination, clock: FakeClock
) -> None:
    login, providers = make_login(store, coordination, clock)
    url = await login.begin(HERE, issuer=1, binding=BINDING, destination=ToPage("/welcome"))
    assert providers[1].asked[0][3] == f"{URL}/login/callback/2"
    done = await login.finish(HERE, issuer=1, binding=BINDING, answer=returned(url))
    assert isinstance(done, LoggedIn)
    assert done.identity.groups == {"two:admins"}


async def test_a_login_is_over_after_ten_minutes_though_the_coordination_remembers_it(
    store: Store, clock: FakeClock
) -> None:
    behind = MemoryCoordination(clock=FakeClock())  # Redis forgets by its own clock, which may be wrong or stand still
    login, _ = make_login(store, behind, clock)

    async def after(passed: timedelta) -> LoggedIn:
        url = await login.begin(HERE, issuer=0, binding=BINDING, destination=ToPage("/welcome"))
        clock.advance(passed)
        return await login.finish(HERE, issuer=0, binding=BINDING, answer=returned(url))

    assert (await after(STATE_LIFETIME)).identity.id.subject == "alice"
    with pytest.raises(Refused, match="more than ten minutes ago"):
        await after(STATE_LIFETIME + timedelta(milliseconds=1))
    await behind.close()


MFA_ACR = ClaimMapping(mfa=frozenset({"urn:example:mfa", "urn:example:phr"}))
ANEW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("remedy", "wanted", "proof", "refusal"),
    [
        ("fresh", StepUp(), {}, ""),
        ("fresh", StepUp(), {"auth_time": None}, "did not ask you to log in anew"),
        ("fresh", StepUp(), {"auth_time": ANEW - 61}, "did not ask you to log in anew"),
        ("mfa", StepUp(("urn:example:mfa", "urn:example:phr")), {"acr": "urn:example:mfa"}, ""),
        ("mfa", StepUp(("urn:example:mfa", "urn:example:phr")), {"amr": ["pwd"]}, "did not ask for a second factor"),
        ("acr=urn:example:phr", StepUp(("urn:example:phr",)), {"acr": "urn:example:phr"}, ""),
        (
            "acr=urn:example:phr",
            StepUp(("urn:example:phr",)),
            {"acr": "urn:example:mfa", "amr": ["pwd", "otp"]},
            "A login of the kind urn:example:phr was asked for, and the identity provider says of how you logged in: "
            "urn:example:mfa, mfa, otp, pwd. Open the page again.",
        ),
        ("acr=urn:example:phr", StepUp(("urn:example:phr",)), {}, "says of how you logged in: nothing"),
        ("amr=hwk,pin", StepUp((), frozenset({"hwk", "pin"})), {"amr": ["pin", "hwk", "user"]}, ""),
        ("amr=hwk,pin", StepUp((), frozenset({"hwk", "pin"})), {"amr": ["hwk"]}, "by hwk and pin was asked for"),
        ("amr=hwk,pin", StepUp((), frozenset({"hwk", "pin"})), {"amr": "hwk pin"}, "by hwk and pin was asked for"),
    ],
)
async def test_a_login_made_anew_is_asked_for_as_it_must_be_and_nothing_less_is_taken(
    store: Store,
    coordination: MemoryCoordination,
    clock: FakeClock,
    remedy: str,
    wanted: StepUp,
    proof: dict[str, Any],
    refusal: str,
) -> None:
    login, providers = make_login(store, coordination, clock, mapping=MFA_ACR)
    url = await login.begin(
        HERE, issuer=0, binding=BINDING, destination=ToPage("/welcome"), remedy=Remedy.parse(remedy)
    )
    assert providers[0].wanted == wanted
    claims = {"auth_time": ANEW} | proof
    providers[0].claims = {name: value for name, value in claims.items() if value is not None}
    if not refusal:
        await login.finish(HERE, issuer=0, binding=BINDING, answer=returned(url))
        return
    with pytest.raises(Refused, match=re.escape(refusal)):
        await login.finish(HERE, issuer=0, binding=BINDING, answer=returned(url))
    with pytest.raises(NotFound):
        await store.identity(IdentityId("https://one.example.com", "alice"))


async def test_an_issuer_that_cannot_do_what_was_asked_is_said_to(
    store: Store, coordination: MemoryCoordination, clock: FakeClock
) -> None:
    login, _ = make_login(store, coordination, clock)
    remedy = Remedy.parse("acr=urn:example:phr")
    url = await login.begin(HERE, issuer=0, binding=BINDING, destination=ToPage("/welcome"), remedy=remedy)
    with pytest.raises(Refused, match="cannot make a login of the kind urn:example:phr"):
        await login.finish(HERE, issuer=0, binding=BINDING, answer=returned(url, code=None, error=UNMET))


async def test_nothing_that_the_browser_is_shown_is_the_secret_that_redeems_its_code(
    store: Store, coordination: MemoryCoordination, clock: FakeClock
) -> None:
    login, providers = make_login(store, coordination, clock)
    await login.begin(HERE, issuer=0, binding=BINDING, destination=ToPage("/welcome"))
    state, nonce, challenge, *_ = providers[0].asked[0]
    shown = {state, nonce, challenge, BINDING}
    assert len(shown) == 4
    assert not any(matches(challenge, each) for each in shown)


@pytest.mark.parametrize("verifier", ["", "short", "a" * 42, "a" * 129, "é" * 43, "a" * 42 + "\n"], ids=ascii)
def test_what_is_too_short_to_be_secret_is_no_verifier_though_its_hash_is_right(verifier: str) -> None:
    assert not matches(challenge_of(verifier), verifier)


class Moving:
    """Where an address is, which data that are replaced meanwhile may see otherwise."""

    country = "DE"

    def locate(self, address: Address) -> Place:
        return Place(address, self.country, "test")


async def test_the_place_is_asked_again_when_the_browser_comes_back(
    store: Store, coordination: MemoryCoordination, clock: FakeClock
) -> None:
    where = Moving()
    login, _ = make_login(store, coordination, clock, locator=where)
    url = await login.begin(HERE, issuer=0, binding=BINDING, destination=ToPage("/welcome"))
    where.country = "US"
    with pytest.raises(Refused, match="Nothing here can be reached from where you are"):
        await login.finish(HERE, issuer=0, binding=BINDING, answer=returned(url))


async def test_an_answer_that_comes_back_on_another_issuers_way_is_a_mix_up(
    store: Store, coordination: MemoryCoordination, clock: FakeClock
) -> None:
    login, providers = make_login(store, coordination, clock)
    url = await login.begin(HERE, issuer=0, binding=BINDING, destination=ToPage("/welcome"))
    with pytest.raises(Refused, match="another identity provider"):
        await login.finish(HERE, issuer=1, binding=BINDING, answer=returned(url))
    assert providers[1].asked == []


@pytest.mark.parametrize("number", [-1, 2, 100])
async def test_there_is_no_issuer_beyond_the_configured_ones(
    store: Store, coordination: MemoryCoordination, clock: FakeClock, number: int
) -> None:
    login, _ = make_login(store, coordination, clock)
    with pytest.raises(NotFound):
        await login.begin(HERE, issuer=number, binding=BINDING, destination=ToPage("/welcome"))


@pytest.mark.parametrize(
    "catalogue", [Catalogue({}, {}), fenced(frozenset()), fenced(frozenset({"US"}))], ids=["none", "empty", "elsewhere"]
)
async def test_without_a_fence_that_holds_the_address_nobody_begins(
    store: Store, coordination: MemoryCoordination, clock: FakeClock, catalogue: Catalogue
) -> None:
    login, providers = make_login(store, coordination, clock, catalogue)
    with pytest.raises(Refused, match="where you are"):
        await login.begin(HERE, issuer=0, binding=BINDING, destination=ToPage("/welcome"))
    assert providers[0].asked == []


class WithoutLog:
    """A store whose audit log cannot be written."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def transaction(self) -> Transaction:
        raise Unavailable("The audit log cannot be written.")


async def test_nobody_is_logged_in_without_an_audit_log(
    store: Store, coordination: MemoryCoordination, clock: FakeClock
) -> None:
    login, providers = make_login(store, coordination, clock)
    url = await login.begin(HERE, issuer=0, binding=BINDING, destination=ToPage("/welcome"))
    blind: Any = WithoutLog(store)
    broken, _ = make_login(blind, coordination, clock, providers=providers)
    with pytest.raises(Unavailable):
        await broken.finish(HERE, issuer=0, binding=BINDING, answer=returned(url))
    with pytest.raises(NotFound):
        await store.identity(IdentityId("https://one.example.com", "alice"))
    assert await store.events(EventFilter()) == []


async def test_what_waits_for_the_browser_is_useless_to_whoever_reads_it(
    store: Store, coordination: MemoryCoordination, clock: FakeClock
) -> None:
    login, _ = make_login(store, coordination, clock)
    secret = new_secret()
    url = await login.begin(HERE, issuer=0, binding=secret, destination=ToPage("/welcome"))
    kept = await coordination.take(f"login-state:{url.partition('state=')[2]}")
    assert kept is not None
    assert secret.encode() not in kept
