"""The bastion as a client of a provider that lies, over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from bastion.access.pkce import challenge_of, new_secret
from bastion.adapters.oidc import OidcProvider, logout_token, workload_token
from bastion.adapters.oidc.fetch import MAX_ANSWER, check_url
from bastion.adapters.oidc.id_token import Expected, check, check_renewed
from bastion.adapters.oidc.keys import MAX_AGE, REFETCH_PAUSE, read_keys
from bastion.adapters.oidc.metadata import ALGORITHMS
from bastion.adapters.oidc.signature import ID_TOKEN, read_header
from bastion.core.errors import Unauthenticated, Unavailable
from bastion.core.identity import VerifiedClaims
from bastion.demo.provider import Registration
from tests.fakes import FakeClock
from tests.services.identity import ALICE, BOB, HostileProvider
from tests.services.ports import free_port

CALLBACK = "http://127.0.0.1:9/login/callback"


@dataclass
class Pair:
    """A provider and the bastion's client of it."""

    provider: HostileProvider
    client: OidcProvider
    session: aiohttp.ClientSession

    async def visit(self, url: str) -> dict[str, str]:
        """What a browser brings back when its owner logs in as Alice."""
        form = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        async with self.session.post(
            f"{self.provider.issuer}/authorize", data={**form, "account": "alice"}, allow_redirects=False
        ) as response:
            assert response.status == 303, await response.text()
            answer = parse_qs(urlsplit(response.headers["Location"]).query)
        return {name: values[0] for name, values in answer.items()}

    async def log_in(self, *, verifier: str | None = None, nonce: str | None = None) -> VerifiedClaims:
        """A whole login; with ``verifier`` or ``nonce`` it ends with another than it began with."""
        right_verifier, right_nonce = new_secret(), new_secret()
        url = await self.client.authorization_url(new_secret(), right_nonce, challenge_of(right_verifier), CALLBACK)
        answer = await self.visit(url)
        proof = await self.client.redeem(
            answer["code"], verifier or right_verifier, CALLBACK, nonce or right_nonce, answer.get("iss")
        )
        return proof.claims


@asynccontextmanager
async def pair(clock: FakeClock, *, algorithm: str = "ES256", secret: str | None = "s3cret:+ &") -> AsyncIterator[Pair]:
    provider = HostileProvider(
        client=Registration("bastion", secret, frozenset({CALLBACK})),
        accounts=[ALICE, BOB],
        algorithm=algorithm,
        clock=clock,
    )
    await provider.start()
    async with aiohttp.ClientSession() as session:
        client = OidcProvider(
            issuer=provider.issuer,
            client_id="bastion",
            client_secret=secret,
            scopes=["openid", "email"],
            session=session,
            clock=clock,
        )
        yield Pair(provider, client, session)
    await provider.stop()


@pytest.fixture
async def honest(clock: FakeClock) -> AsyncIterator[Pair]:
    async with pair(clock) as both:
        yield both


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
@pytest.mark.parametrize("secret", ["s3cret:+ &", None], ids=["confidential", "public"])
async def test_an_honest_login_gives_the_claims_that_were_signed(
    clock: FakeClock, algorithm: str, secret: str | None
) -> None:
    async with pair(clock, algorithm=algorithm, secret=secret) as both:
        claims = await both.log_in()
    assert claims.subject == "alice"
    assert claims.issuer == both.provider.issuer
    assert claims.claims["groups"] == ["contractors"]
    assert claims.verified_at == clock.now()


async def test_a_secret_goes_into_the_form_when_the_provider_only_takes_it_there(honest: Pair) -> None:
    honest.provider.alter_metadata = lambda m: m | {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    with pytest.raises(Unavailable, match="refused the bastion itself"):  # this provider checks the header alone
        await honest.log_in()
    assert honest.provider.requests["/token"] == 1


def changed(**claims: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda said: said | claims


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda said: {key: value for key, value in said.items() if key != name}


def moved(name: str, seconds: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda said: said | {name: said["iat"] + seconds}


LIES = {
    "another issuer": changed(iss="https://evil.example"),
    "no issuer": without("iss"),
    "issuer with a slash more": lambda said: said | {"iss": said["iss"] + "/"},
    "another audience": changed(aud="other"),
    "no audience": without("aud"),
    "an empty audience": changed(aud=[]),
    "an audience that contains our name": changed(aud="bastion2"),
    "two audiences without azp": changed(aud=["bastion", "other"]),
    "two audiences, made for the other": changed(aud=["bastion", "other"], azp="other"),
    "one audience, made for another": changed(azp="other"),
    "audiences that are not text": changed(aud=["bastion", 7], azp="bastion"),
    "an audience as an object": changed(aud={"bastion": 1}),
    "expired by a minute": moved("exp", -60),
    "no expiry": without("exp"),
    "expiry as text": changed(exp="9999999999"),
    "expiry NaN": changed(exp=float("nan")),
    "expiry infinite": changed(exp=float("inf")),
    "expiry beyond all numbers": changed(exp=10**400),
    "expiry true": changed(exp=True),
    "issued in the future": moved("iat", 61),
    "no time of issue": without("iat"),
    "issued at true": changed(iat=True),
    "not valid yet": moved("nbf", 61),
    "not valid before NaN": changed(nbf=float("nan")),
    "authenticated in the future": lambda said: said | {"auth_time": said["iat"] + 61},
    "authenticated at no time": changed(auth_time=10**20),
    "another nonce": changed(nonce="other"),
    "no nonce": without("nonce"),
    "a nonce that is not text": changed(nonce=7),
    "another access token": changed(at_hash="AAAAAAAAAAAAAAAAAAAAAA"),
    "an access token hash that is not text": changed(at_hash=["x"]),
    "no subject": without("sub"),
    "an empty subject": changed(sub=""),
    "a subject that is a number": changed(sub=7),
    "a subject of 256 characters": changed(sub="a" * 256),
    "a subject outside ASCII": changed(sub="аlice"),
}


async def test_an_answer_without_an_id_token_logs_nobody_in(honest: Pair) -> None:
    """An access token says what may be done, and not who is there."""
    honest.provider.alter_token = lambda token: None  # type: ignore[assignment,return-value]  # as a provider may
    with pytest.raises(Unavailable, match="no ID token"):
        await honest.log_in()


def test_a_token_that_was_made_beside_an_access_token_does_not_come_without_it(clock: FakeClock) -> None:
    now = int(clock.now().timestamp())
    issuer = "https://login.example.com"
    said = {"iss": issuer, "sub": "alice", "aud": "bastion", "iat": now, "exp": now + 60, "nonce": "n"}
    expected = Expected(issuer, "bastion", "n", access_token=None)
    assert check(said, "ES256", expected, clock.now()).subject == "alice"
    with pytest.raises(Unauthenticated, match="at_hash without"):
        check(said | {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}, "ES256", expected, clock.now())


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_an_id_token_that_says_something_else_logs_nobody_in(
    honest: Pair, lie: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    honest.provider.alter_claims = lie
    with pytest.raises(Unauthenticated, match="could not be verified"):
        await honest.log_in()


TRUTHS = {
    "several audiences and azp": changed(aud=["other", "bastion"], azp="bastion"),
    "one audience in a list": changed(aud=["bastion"]),
    "azp is us": changed(azp="bastion"),
    "no access token hash": without("at_hash"),
    "expired for less than the leeway": moved("exp", -59),
    "issued a moment ahead": lambda said: said | {"iat": said["iat"] + 59, "nbf": said["iat"] + 59},
    "times with fractions": lambda said: said | {"exp": said["exp"] + 0.5},
}


@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)
async def test_what_the_specification_allows_is_accepted(
    honest: Pair, truth: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    honest.provider.alter_claims = truth
    assert (await honest.log_in()).subject == "alice"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(header: dict[str, Any], claims: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{signed}.{b64(sign(signed.encode()))}"


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
async def test_an_unsigned_token_logs_nobody_in(honest: Pair, alg: str) -> None:
    honest.provider.sign = lambda claims: raw_token({"alg": alg}, claims, lambda _: b"")
    with pytest.raises(Unauthenticated, match="could not be verified"):
        await honest.log_in()


@pytest.mark.parametrize("offered", [["RS256"], ["RS256", "HS256", "none"]], ids=["RS256", "also HS256"])
async def test_hs256_with_the_public_rsa_key_as_the_secret_logs_nobody_in(clock: FakeClock, offered: list[str]) -> None:
    async with pair(clock, algorithm="RS256") as both:
        public: dict[str, Any] = both.provider.key_set()["keys"][0]
        key = RSAKey.import_key(public)
        pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        secrets = [pem, pem.strip(), public["n"].encode(), json.dumps(public).encode()]
        both.provider.alter_metadata = lambda m: m | {"id_token_signing_alg_values_supported": offered}
        for secret in secrets:

            def forge(claims: dict[str, Any], secret: bytes = secret) -> str:
                header = {"alg": "HS256", "kid": public["kid"]}
                return raw_token(header, claims, lambda data: hmac.new(secret, data, hashlib.sha256).digest())

            both.provider.sign = forge
            with pytest.raises(Unauthenticated, match="could not be verified"):
                await both.log_in()


async def test_a_symmetric_key_in_the_key_set_is_no_key(honest: Pair) -> None:
    secret = OctKey.generate_key(256, auto_kid=True)
    honest.provider.alter_keys = lambda said: {"keys": [*said["keys"], secret.as_dict(private=True)]}
    honest.provider.sign = lambda claims: jwt.encode(
        {"alg": "HS256", "kid": secret.kid}, claims, secret, algorithms=["HS256"]
    )
    with pytest.raises(Unauthenticated):
        await honest.log_in()


FORGED_HEADERS = {
    "its own key in the header": lambda key: {"jwk": key.as_dict(private=False)},
    "a key set of its own": lambda key: {"jku": "https://evil.example/jwks"},
    "an unknown critical extension": lambda key: {"crit": ["b64"], "b64": False},
    "a kid that is a list": lambda key: {"kid": ["a"]},
}


@pytest.mark.parametrize("header", FORGED_HEADERS.values(), ids=FORGED_HEADERS)
async def test_a_token_does_not_bring_its_own_key(honest: Pair, header: Callable[[ECKey], dict[str, Any]]) -> None:
    forger = ECKey.generate_key("P-256")

    def forge(claims: dict[str, Any]) -> str:
        kid = honest.provider.key_set()["keys"][0]["kid"]
        token = jwt.encode({"alg": "ES256", "kid": kid}, claims, forger, algorithms=["ES256"])
        said, body, _ = token.split(".")
        said = b64(json.dumps({"alg": "ES256", "kid": kid, **header(forger)}).encode())
        from joserfc.jws import JWSRegistry

        signature = JWSRegistry.algorithms["ES256"].sign(f"{said}.{body}".encode(), forger)
        return f"{said}.{body}.{b64(signature)}"

    honest.provider.sign = forge
    with pytest.raises(Unauthenticated):
        await honest.log_in()


async def test_a_token_signed_with_an_algorithm_that_the_issuer_does_not_use_logs_nobody_in(honest: Pair) -> None:
    key = OKPKey.generate_key("Ed25519", auto_kid=True)
    honest.provider.alter_keys = lambda said: {"keys": [*said["keys"], key.as_dict(private=False)]}

    def sign(claims: dict[str, Any]) -> str:
        assert key.private_key is not None
        return raw_token({"alg": "EdDSA", "kid": key.kid}, claims, key.private_key.sign)  # type: ignore[union-attr]  # Ed25519 signs

    honest.provider.sign = sign
    with pytest.raises(Unauthenticated):
        await honest.log_in()
    honest.provider.alter_metadata = lambda m: m | {"id_token_signing_alg_values_supported": ["ES256", "EdDSA"]}
    async with aiohttp.ClientSession() as session:
        fresh = OidcProvider(
            issuer=honest.provider.issuer,
            client_id="bastion",
            client_secret="s3cret:+ &",
            scopes=[],
            session=session,
            clock=honest.provider.clock,
        )
        # at_hash of EdDSA is SHA-512, this provider's is SHA-256: leave it out.
        honest.provider.alter_claims = without("at_hash")
        assert (await Pair(honest.provider, fresh, session).log_in()).subject == "alice"


async def test_a_key_that_is_for_another_algorithm_signs_nothing_here(clock: FakeClock) -> None:
    """Its issuer keeps it for one kind of signature; another that fits its type may be broken some day."""
    async with pair(clock, algorithm="RS256") as both:
        both.provider.alter_keys = lambda said: {"keys": [key | {"alg": "PS256"} for key in said["keys"]]}
        with pytest.raises(Unauthenticated, match="0 keys"):
            await both.log_in()


def test_a_token_of_megabytes_is_not_even_read() -> None:
    with pytest.raises(Unauthenticated, match="1048576 characters"):
        read_header("e" * 2**20, ALGORITHMS, ID_TOKEN)


async def test_a_garbled_signature_logs_nobody_in(honest: Pair) -> None:
    honest.provider.alter_token = lambda token: token[:-8] + ("A" * 8 if not token.endswith("A" * 8) else "B" * 8)
    with pytest.raises(Unauthenticated):
        await honest.log_in()


async def test_another_verifier_than_the_one_it_began_with_is_refused_by_the_provider(honest: Pair) -> None:
    with pytest.raises(Unauthenticated, match="did not accept this login's code"):
        await honest.log_in(verifier=new_secret())


async def test_another_nonce_than_the_one_it_began_with_logs_nobody_in(honest: Pair) -> None:
    with pytest.raises(Unauthenticated, match="could not be verified"):
        await honest.log_in(nonce=new_secret())


async def test_a_code_is_good_once(honest: Pair) -> None:
    verifier, nonce = new_secret(), new_secret()
    answer = await honest.visit(
        await honest.client.authorization_url(new_secret(), nonce, challenge_of(verifier), CALLBACK)
    )
    await honest.client.redeem(answer["code"], verifier, CALLBACK, nonce, answer["iss"])
    with pytest.raises(Unauthenticated, match="used already"):
        await honest.client.redeem(answer["code"], verifier, CALLBACK, nonce, answer["iss"])


@pytest.mark.parametrize(
    ("offered", "iss"),
    [(True, None), (True, "https://evil.example"), (False, "https://evil.example"), (True, ""), (False, "")],
    ids=["missing", "wrong", "wrong though not offered", "empty", "empty though not offered"],
)
async def test_an_answer_of_another_issuer_is_refused_before_its_code_goes_anywhere(
    honest: Pair, offered: bool, iss: str | None
) -> None:
    honest.provider.alter_metadata = lambda m: m | {"authorization_response_iss_parameter_supported": offered}
    with pytest.raises(Unauthenticated, match="does not come from the identity provider"):
        await honest.client.redeem("code", new_secret(), CALLBACK, new_secret(), iss)
    assert "/token" not in honest.provider.requests


async def test_an_issuer_that_does_not_offer_iss_may_leave_it_out(honest: Pair) -> None:
    honest.provider.alter_metadata = without("authorization_response_iss_parameter_supported")
    honest.provider.alter_answer = lambda said: {"code": said["code"], "state": said["state"]}
    assert (await honest.log_in()).subject == "alice"


# ------------------------------------------------------------------------------------------------------------- keys


async def test_a_rotated_key_is_found_without_a_restart(honest: Pair) -> None:
    await honest.log_in()
    honest.provider.rotate_keys()
    assert (await honest.log_in()).subject == "alice"
    assert honest.provider.requests["/jwks"] == 2


async def test_keys_are_asked_for_once_for_many_logins(honest: Pair) -> None:
    await asyncio.gather(*(honest.log_in() for _ in range(5)))
    assert honest.provider.requests["/jwks"] == 1
    await honest.log_in()
    assert honest.provider.requests["/jwks"] == 1


async def test_unknown_key_ids_do_not_make_us_flood_the_provider(honest: Pair, clock: FakeClock) -> None:
    await honest.log_in()
    stranger = ECKey.generate_key("P-256", auto_kid=True)
    honest.provider.sign = lambda claims: jwt.encode({"alg": "ES256", "kid": new_secret()}, claims, stranger)
    for _ in range(5):
        with pytest.raises(Unauthenticated, match="does not publish"):
            await honest.log_in()
    assert honest.provider.requests["/jwks"] == 2
    clock.advance(REFETCH_PAUSE)
    with pytest.raises(Unauthenticated, match="does not publish"):
        await honest.log_in()
    assert honest.provider.requests["/jwks"] == 3


async def test_a_withdrawn_key_is_believed_no_longer_than_the_cache_lasts(honest: Pair, clock: FakeClock) -> None:
    await honest.log_in()
    stolen = honest.provider._keys[0]
    honest.provider.rotate_keys()
    honest.provider.sign = lambda claims: jwt.encode({"alg": "ES256", "kid": stolen.kid}, claims, stolen)
    clock.advance(MAX_AGE)
    with pytest.raises(Unauthenticated, match="does not publish"):
        await honest.log_in()


async def test_a_token_without_a_key_id_needs_a_set_that_leaves_no_choice(honest: Pair) -> None:
    key = honest.provider._keys[0]
    honest.provider.sign = lambda claims: jwt.encode({"alg": "ES256"}, claims, key)
    rsa = RSAKey.generate_key(2048, auto_kid=True).as_dict(private=False)
    honest.provider.alter_keys = lambda said: {"keys": [*said["keys"], rsa]}
    assert (await honest.log_in()).subject == "alice", "a key of another type is no choice"
    other = ECKey.generate_key("P-256", auto_kid=True).as_dict(private=False)
    honest.provider.alter_keys = lambda said: {"keys": [*said["keys"], other]}
    async with aiohttp.ClientSession() as session:
        fresh = OidcProvider(
            issuer=honest.provider.issuer,
            client_id="bastion",
            client_secret="s3cret:+ &",
            scopes=[],
            session=session,
            clock=honest.provider.clock,
        )
        with pytest.raises(Unauthenticated, match="does not publish"):
            await Pair(honest.provider, fresh, session).log_in()


def test_unusable_keys_of_a_set_are_left_out() -> None:
    good = ECKey.generate_key("P-256", auto_kid=True)
    public = good.as_dict(private=False)
    entries = [
        OctKey.generate_key(256).as_dict(private=True),
        {**public, "use": "enc"},
        good.as_dict(private=True),
        {**public, "x": "!!"},
        {"kty": "RSA", "n": b64(b"\xff" * 128), "e": "AQAB"},
        {"kty": "RSA", "n": b64(bytes(256) + b"\xff" * 128), "e": "AQAB"},
        {"kty": "RSA", "n": b64(b"\xff" * 4096), "e": "AQAB"},
        {"kty": "RSA", "n": "é" * 400, "e": "AQAB"},
        {"kty": "OKP", "crv": "Ed448", "x": b64(bytes(57))},
        {"kty": "EC"},
        {},
        "text",
        None,
    ]
    assert read_keys({"keys": entries}) == []
    assert [key.kid for key in read_keys({"keys": [*entries, public]})] == [good.kid]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from(["keys"]),
        st.lists(
            st.dictionaries(
                st.sampled_from(["kty", "use", "alg", "kid", "n", "e", "x", "y", "crv", "d", "key_ops"]),
                JSON | st.sampled_from(["RSA", "EC", "OKP", "sig", "P-256"]),
            )
        ),
    )
)
def test_no_key_set_makes_the_reader_fail(document: dict[str, Any]) -> None:
    assert isinstance(read_keys(document), list)


@given(
    st.text()
    | st.binary().map(b64)
    | st.lists(JSON, min_size=3, max_size=3).map(
        lambda parts: ".".join(b64(json.dumps(part).encode()) for part in parts)
    )
)
def test_a_header_is_readable_or_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        read_header(token, ALGORITHMS, ID_TOKEN)


# --------------------------------------------------------------------------------------------------------- metadata


UNUSABLE_METADATA = {
    "another issuer": lambda m: m | {"issuer": "https://evil.example"},
    "issuer with a slash more": lambda m: m | {"issuer": m["issuer"] + "/"},
    "no issuer": without("issuer"),
    "no token endpoint": without("token_endpoint"),
    "a token endpoint in the clear": lambda m: m | {"token_endpoint": "http://login.example.com/token"},
    "a key set in the clear": lambda m: m | {"jwks_uri": "http://login.example.com/jwks"},
    "an endpoint that is a file": lambda m: m | {"jwks_uri": "file:///etc/passwd"},
    "an endpoint with credentials": lambda m: m | {"jwks_uri": "https://a:b@login.example.com/jwks"},
    "an endpoint that is a number": lambda m: m | {"authorization_endpoint": 7},
    "a browser sent to javascript": lambda m: m | {"authorization_endpoint": "javascript:alert(1)"},
    "a header in an endpoint": lambda m: m | {"authorization_endpoint": "https://login.example.com/\r\nX: y"},
    "only HS256": lambda m: m | {"id_token_signing_alg_values_supported": ["HS256", "none"]},
    "only plain PKCE": lambda m: m | {"code_challenge_methods_supported": ["plain"]},
    "no authorization code flow": lambda m: m | {"response_types_supported": ["id_token"]},
}


@pytest.mark.parametrize("change", UNUSABLE_METADATA.values(), ids=UNUSABLE_METADATA)
async def test_metadata_that_cannot_be_trusted_sends_nobody_anywhere(
    honest: Pair, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    honest.provider.alter_metadata = change
    with pytest.raises(Unavailable):
        await honest.client.authorization_url("s", "n", "c", CALLBACK)


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1/x", "http://localhost.evil.example/", "http://127.0.0.1.evil.example/", "https:///x", "ftp://a/",
     "https://a/#f", "https://a:99999/", "https://[::1", "", " https://a/", None],
)  # fmt: skip
def test_a_url_that_is_not_https_or_loopback_is_never_asked(url: object) -> None:
    with pytest.raises(Unavailable):
        check_url(url, what="endpoint")


@asynccontextmanager
async def one_answer(response: Callable[[web.Request], web.StreamResponse]) -> AsyncIterator[str]:
    """A server that gives one answer to everything."""
    served: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        served.append(request.path)
        return response(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()
    assert served in ([], ["/.well-known/openid-configuration"])


USELESS = {
    "a redirect": lambda r: web.Response(status=302, headers={"Location": "/elsewhere"}),
    "an endless document": lambda r: web.Response(body=b"[" * (MAX_ANSWER + 1)),
    "deep nesting": lambda r: web.Response(body=b"[" * MAX_ANSWER),
    "text": lambda r: web.Response(text="<html>"),
    "a list": lambda r: web.json_response([]),
    "nothing": lambda r: web.Response(),
    "an error": lambda r: web.json_response({"issuer": "x"}, status=500),
    "a compressed document": lambda r: web.Response(body=b"x" * 100, headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("answer", USELESS.values(), ids=USELESS)
async def test_a_provider_that_answers_nonsense_is_unavailable(
    clock: FakeClock, answer: Callable[[web.Request], web.StreamResponse]
) -> None:
    async with one_answer(answer) as issuer, aiohttp.ClientSession() as session:
        client = OidcProvider(
            issuer=issuer, client_id="bastion", client_secret=None, scopes=[], session=session, clock=clock
        )
        with pytest.raises(Unavailable, match="identity provider"):
            await client.authorization_url("s", "n", "c", CALLBACK)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"], ids=["nothing", "a part"])
async def test_a_provider_that_does_not_finish_is_not_waited_for(clock: FakeClock, said: bytes) -> None:
    done = asyncio.Event()

    async def dawdle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await reader.read()  # until the client has had enough
        writer.close()
        done.set()

    server = await asyncio.start_server(dawdle, "127.0.0.1", 0)
    async with server, aiohttp.ClientSession() as session:
        client = OidcProvider(
            issuer=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            client_id="bastion",
            client_secret=None,
            scopes=[],
            session=session,
            clock=clock,
            patience=timedelta(milliseconds=100),
        )
        with pytest.raises(Unavailable, match="does not answer"):
            await client.authorization_url("s", "n", "c", CALLBACK)
        await asyncio.wait_for(done.wait(), 10)


async def test_a_provider_that_is_down_is_unavailable_with_a_sentence(clock: FakeClock) -> None:
    async with aiohttp.ClientSession() as session:
        client = OidcProvider(
            issuer=f"http://127.0.0.1:{free_port()}",
            client_id="bastion",
            client_secret=None,
            scopes=[],
            session=session,
            clock=clock,
        )
        with pytest.raises(Unavailable) as caught:
            await client.authorization_url("s", "n", "c", CALLBACK)
    assert "does not answer" in caught.value.public
    assert "127.0.0.1" not in caught.value.public


async def test_a_provider_that_dies_between_the_browser_and_the_code_is_unavailable(honest: Pair) -> None:
    verifier, nonce = new_secret(), new_secret()
    answer = await honest.visit(
        await honest.client.authorization_url(new_secret(), nonce, challenge_of(verifier), CALLBACK)
    )
    await honest.provider.stop()
    with pytest.raises(Unavailable, match="does not answer"):
        await honest.client.redeem(answer["code"], verifier, CALLBACK, nonce, answer["iss"])


async def test_metadata_is_asked_for_again_after_an_hour(honest: Pair, clock: FakeClock) -> None:
    await honest.log_in()
    await honest.log_in()
    assert honest.provider.requests["/.well-known/openid-configuration"] == 1
    clock.advance(timedelta(hours=1))
    await honest.log_in()
    assert honest.provider.requests["/.well-known/openid-configuration"] == 2


async def test_the_demo_provider_listens_on_the_loopback_only() -> None:
    provider = HostileProvider(client=Registration("bastion", None, frozenset({CALLBACK})), accounts=[ALICE])
    with pytest.raises(ValueError, match="loopback only"):
        await provider.start("0.0.0.0")


BAD_QUESTIONS = {
    "another redirect": {"redirect_uri": CALLBACK + "/x"},
    "plain PKCE": {"code_challenge_method": "plain"},
    "no PKCE": {"code_challenge": ""},
    "another client": {"client_id": "other"},
    "no nonce": {"nonce": ""},
    "nobody": {"account": "carol"},
}


@pytest.mark.parametrize("bad", BAD_QUESTIONS.values(), ids=BAD_QUESTIONS)
async def test_the_demo_provider_refuses_what_a_real_one_would(honest: Pair, bad: dict[str, str]) -> None:
    url = await honest.client.authorization_url("s" * 43, "n" * 43, challenge_of(new_secret()), CALLBACK)
    form = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    async with honest.session.post(
        f"{honest.provider.issuer}/authorize", data={**form, "account": "alice", **bad}, allow_redirects=False
    ) as response:
        assert response.status == 400


# ---------------------------------------------------------------------------------------------------------- renewals


def renewed(clock: FakeClock, **changed: Any) -> VerifiedClaims:
    now = int(clock.now().timestamp())
    said = {"iss": "https://login.example.com", "sub": "alice", "aud": "bastion", "iat": now, "exp": now + 60}
    expected = {"issuer": "https://login.example.com", "client_id": "bastion", "subject": "alice"}
    return check_renewed(said | changed, now=clock.now(), **expected)


def test_a_renewed_id_token_needs_no_nonce(clock: FakeClock) -> None:
    assert renewed(clock).subject == "alice"


@pytest.mark.parametrize(
    "lie",
    [{"sub": "bob"}, {"iss": "https://evil.example"}, {"aud": "other"}, {"azp": "other"}, {"exp": 1}, {"events": {}}],
    ids=lambda lie: next(iter(lie)),
)
def test_a_renewed_id_token_about_somebody_or_something_else_is_refused(clock: FakeClock, lie: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        renewed(clock, **lie)


# ------------------------------------------------------------------------------------- tokens that another issuer made


def test_another_issuers_token_is_refused_however_it_came_to_be_judged(clock: FakeClock) -> None:
    """Tokens go to the issuer that they name; should that ever be another's, its word does not count for this one."""
    now, issuer = clock.now(), "https://login.example.com"
    times = {"iat": int(now.timestamp()), "exp": int(now.timestamp()) + 60}
    said = {"sub": "alice", "aud": "bastion", "jti": "1", **times}
    logout = said | {"events": {logout_token.EVENT: {}}}
    assert logout_token.check(logout | {"iss": issuer}, issuer=issuer, client_id="bastion", now=now).subject == "alice"
    work = workload_token.check(said | {"iss": issuer}, issuer=issuer, audiences=["bastion"], now=now)
    assert work.subject == "alice"
    for other in ({"iss": "https://evil.example"}, {}):
        with pytest.raises(Unauthenticated, match="iss"):
            logout_token.check(logout | other, issuer=issuer, client_id="bastion", now=now)
        with pytest.raises(Unauthenticated, match="iss"):
            workload_token.check(said | other, issuer=issuer, audiences=["bastion"], now=now)
