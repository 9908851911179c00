"""The HTTP console as one application: routes of every module, errors as sentences, limits, headers, access log."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, cast

import aiohttp
import structlog
from aiohttp import http_parser, web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.typedefs import Handler

from bastion.console.body import MAX_BODY
from bastion.console.caller import CALLERS, Callers
from bastion.console.entrance import Entrance, Site
from bastion.console.pages import content_security_policy, error_page
from bastion.core.errors import (
    BastionError,
    ConfigError,
    Conflict,
    NotFound,
    Refused,
    TooOften,
    Unauthenticated,
    Unavailable,
)
from bastion.core.geofence import Network
from bastion.core.remedy import Remedy, StepUpNeeded
from bastion.core.target import printable

MIN_AIOHTTP = (3, 14, 5)
"""The version whose C parser refused every broken framing that was tried on it."""

ANSWER_SECONDS = 60
"""Until an answer has begun; a provider is asked three times at most, ten seconds each. Streams may last."""

IDLE_SECONDS = 30
"""For a connection without a complete request header: this is what a slow sender holds."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with it browsers send `Origin: null` with our own forms (Fetch, section 3.2.5).
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

_SENTENCES = {
    404: "There is nothing here.",
    405: "This cannot be done here.",
    413: "The request is larger than 64 KiB.",
}

_DEADLINE = web.RequestKey("deadline", asyncio.Timeout)
_BEGUN = web.RequestKey("begun", bool)

log = structlog.get_logger("bastion.console")


def build(*, routes: Iterable[web.RouteDef], callers: Callers) -> web.Application:
    """The application.

    Raises:
        ConfigError: the installed aiohttp is too old or runs without its C parser; nothing was started.
    """
    check_parser()
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors, _deadline])
    app[CALLERS] = callers
    app.router.add_get("/healthz", _health)
    app.add_routes(routes)

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        if (deadline := request.get(_DEADLINE)) is not None:
            deadline.reschedule(None)
        request[_BEGUN] = True
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Content-Security-Policy", content_security_policy())
        response.headers["Server"] = "bastion"  # aiohttp has put its version there
        if callers.secure:
            response.headers.setdefault("Strict-Transport-Security", "max-age=31536000")

    app.on_response_prepare.append(prepare)
    return app


async def serve(
    app: web.Application,
    host: str,
    port: int,
    ssl_context: ssl.SSLContext | None,
    *,
    balancers: Sequence[Network] = (),
    shared: bool = False,
) -> web.AppRunner:
    """Listen. ``runner.addresses`` says where; ``await runner.cleanup()`` stops.

    With ``shared`` other processes may listen at the same port, and each gets a part of the connections.

    ``balancers`` say in a PROXY header for whom they speak; of anybody else such a header is a broken request.

    Raises:
        OSError: the address is taken or not ours.
    """
    runner = web.AppRunner(
        app, access_log_class=AccessLog, keepalive_timeout=IDLE_SECONDS, shutdown_timeout=2, handle_signals=False
    )
    await runner.setup()
    entrance = Entrance(handlers=cast(Any, runner.server), tls=ssl_context, balancers=balancers)
    try:
        await Site(runner, entrance, host, port, shared=shared).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner


def check_parser() -> None:
    """That requests are cut by the parser that was tested.

    Raises:
        ConfigError: they would be cut by another one, which may see two requests where a balancer saw one.
    """
    version = tuple(int(part) for part in re.findall(r"\d+", aiohttp.__version__)[:3])
    if version < MIN_AIOHTTP:
        raise ConfigError([f"aiohttp {aiohttp.__version__} is too old: 3.14.5 is needed"])
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ConfigError(["aiohttp runs without its C parser: unset AIOHTTP_NO_EXTENSIONS, install a binary wheel"])


def status_of(error: BastionError) -> int:
    """The HTTP status of an error; most special first."""
    match error:
        case Unauthenticated() | StepUpNeeded():
            return 401
        case NotFound():
            return 404
        case Conflict():
            return 409
        case TooOften():
            return 429
        case Refused():
            return 403
        case Unavailable():
            return 503
        case _:
            return 500


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = _answer(request, error.status, _SENTENCES.get(error.status, error.text or error.reason))
        if (allowed := error.headers.get("Allow")) is not None:  # RFC 9110, section 15.5.6
            response.headers["Allow"] = allowed
        return response
    except BastionError as error:
        log.info("refused", route=_route(request), error=printable(str(error), 500))
        if _BEGUN in request:  # half a stream cannot become an error page; aiohttp cuts the connection
            raise
        remedy = error.remedy if isinstance(error, StepUpNeeded) else None
        response = _answer(request, status_of(error), error.public, remedy)
        if isinstance(error, TooOften):
            response.headers["Retry-After"] = str(max(1, -(-error.retry_after // timedelta(seconds=1))))
        return response
    except TimeoutError:
        log.warning("no answer in time", route=_route(request))
        return _answer(request, 503, "The bastion did not answer in time. Try again in a minute.")
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:
        # The last line: the peer gets a sentence, the log gets the error.
        log.exception("failed", route=_route(request))
        if _BEGUN in request:
            raise
        return _answer(request, 500, "Something went wrong in the bastion. It is in its log.")


@web.middleware
async def _deadline(request: web.Request, handler: Handler) -> web.StreamResponse:
    async with asyncio.timeout(ANSWER_SECONDS) as deadline:
        request[_DEADLINE] = deadline
        try:
            return await handler(request)
        finally:
            del request[_DEADLINE]


def _answer(request: web.Request, status: int, sentence: str, remedy: Remedy | None = None) -> web.Response:
    """The sentence as a program or a person reads it; and which kind of login would do (RFC 9470, section 3)."""
    if not request.path.startswith("/api/"):
        return error_page(status, sentence)
    said, headers = {"error": sentence}, {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if remedy is not None:
        said["step_up"] = str(remedy)
        acr_values = f', acr_values="{remedy.acr}"' if remedy.acr and '"' not in remedy.acr else ""
        headers["WWW-Authenticate"] = f'Bearer error="insufficient_user_authentication", max_age="0"{acr_values}'
    return web.json_response(said, status=status, headers=headers)


async def _health(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


def _route(request: web.BaseRequest) -> str:
    """Which route, never the path itself: paths and queries carry one-time codes."""
    # A request that could not be read was not routed, and aiohttp's property asserts that it was.
    matched: web.UrlMappingMatchInfo | None = getattr(request, "_match_info", None)
    resource = matched.route.resource if matched is not None else None
    return f"{request.method} {resource.canonical if resource is not None else '(none)'}"


class AccessLog(AbstractAccessLogger):
    """One line a request: route, status, time, peer. No query, no header, no body."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        log.info(
            "request", route=_route(request), status=response.status, ms=round(time * 1000), peer=request.remote or "-"
        )
