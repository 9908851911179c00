"""The API described in OpenAPI 3.1, at ``/api/v1/openapi.json``. A test holds it to the routes, and others to itself.

What each operation takes and gives is a table here and not beside each handler: read from top to bottom it is the API.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from bastion import __version__
from bastion.access.wish import MORE
from bastion.console.body import MAX_BODY
from bastion.console.filters import MAX_LIMIT
from bastion.console.grants import MAX_WAIT
from bastion.console.uses import uses_of
from bastion.core import remedy
from bastion.core.apitoken import Use
from bastion.core.files import MAX_PATH, MAX_PATHS
from bastion.core.grant import MAX_REASON, Basis, Verdict
from bastion.core.policy import Action
from bastion.core.request import Stage

Schema = dict[str, Any]

PREFIX = "/api/v1"

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
INSTANT: Schema = {"type": "string", "format": "date-time"}
DURATION: Schema = {"type": "string", "description": "As in 2h, 90m or 1h30m; a grant lasts from 1m to 30d."}
NAMES: Schema = {"type": "array", "items": TEXT}


def _count(most: int) -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": most}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None, *, closed: bool = False) -> Schema:
    schema: Schema = {"type": "object", "properties": required | (optional or {}), "required": sorted(required)}
    return schema | ({"additionalProperties": False} if closed else {})


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_PERMISSION: dict[str, Schema] = {
    "id": TEXT, "identity": TEXT, "display": TEXT, "scope": TEXT, "targets": NAMES, "logins": NAMES,
    "actions": {"type": "array", "items": {"enum": [action.value for action in Action]}},
    "reason": TEXT, "crossing": FLAG, "network": _maybe(TEXT), "paths": NAMES,
}  # fmt: skip
_REQUEST: dict[str, Schema] = _PERMISSION | {
    "asker": TEXT, "duration": DURATION, "approvals": {"type": "integer"}, "reviewers": NAMES, "asked_at": INSTANT,
    "times_out_at": INSTANT, "starts_at": _maybe(INSTANT), "ticket": TEXT, "extends": _maybe(TEXT),
    "break_glass": FLAG, "beside": NAMES,
}  # fmt: skip
_GRANT: dict[str, Schema] = _PERMISSION | {
    "request": TEXT, "starts_at": INSTANT, "ends_at": INSTANT, "approved_by": NAMES, "revoked_at": _maybe(INSTANT),
    "basis": {"enum": [basis.value for basis in Basis]},
}  # fmt: skip
_REVIEW: dict[str, Schema] = {
    "reviewer": TEXT, "display": TEXT, "verdict": {"enum": [verdict.value for verdict in Verdict]}, "at": INSTANT,
    "note": TEXT,
}  # fmt: skip

_TOKEN: dict[str, Schema] = {
    "id": TEXT, "name": TEXT, "uses": {"type": "array", "items": {"enum": list(Use)}}, "network": TEXT,
    "made_at": INSTANT, "ends_at": INSTANT, "revoked_at": _maybe(INSTANT),
}  # fmt: skip

SCHEMAS: dict[str, Schema] = {
    "Error": _object({"error": TEXT}, {"error_description": TEXT}),
    "Request": _object(_REQUEST),
    "Grant": _object(_GRANT),
    "Pending": _object(_REQUEST | {"answerable": FLAG}),
    "Told": _object(
        _REQUEST
        | {
            "stage": {"enum": [stage.value for stage in Stage]},
            "reviews": {"type": "array", "items": _object(_REVIEW)},
            "grant": _maybe(_ref("Grant")),
            "text": TEXT,
        }
    ),
    "Answer": _object(
        {"request": _ref("Request"), "text": TEXT, "status": {"enum": ["granted", "waiting", "refused"]}},
        {"grant": _ref("Grant"), "missing": {"type": "integer"}, "reason": TEXT},
    ),
    "Acknowledgement": _object(
        {"request": _ref("Request"), "grant": _ref("Grant"), "missing": {"type": "integer"}, "text": TEXT}
    ),
    "Withdrawn": _object({"request": _ref("Request"), "text": TEXT}),
    "Grants": _object({"grants": {"type": "array", "items": _ref("Grant")}, "text": TEXT}),
    "Requests": _object({"requests": {"type": "array", "items": _ref("Pending")}, "text": TEXT}),
    "Reviewable": _object(
        _GRANT | {"last_used": _maybe(INSTANT), "unused": FLAG, "ending_soon": FLAG},
    ),
    "ReviewOfAccess": _object({"grants": {"type": "array", "items": _ref("Reviewable")}, "text": TEXT}),
    "Token": _object(_TOKEN),
    "NewToken": _object(_TOKEN | {"secret": TEXT, "text": TEXT}),
    "EndedToken": _object(_TOKEN | {"text": TEXT}),
    "Tokens": _object({"tokens": {"type": "array", "items": _ref("Token")}, "text": TEXT}),
    "Something": {"type": "object"},
}

_REASON: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_REASON}
_WISH: dict[str, Schema] = {"targets": NAMES, "logins": NAMES, "duration": DURATION, "reason": _REASON}
_NARROWER: dict[str, Schema] = {
    "crossing": FLAG,
    "actions": {
        "type": "array",
        "items": {"enum": [before + action.value for before in ("", MORE) for action in Action]},
        "description": "Those and no others; where each has a plus, those besides what a grant includes anyway",
    },
    "starts_at": {"type": "string", "description": "An instant with its offset, or as in: in 2h"},
    "network": {"type": "string", "description": "As in 192.0.2.0/24"},
    "paths": {
        "type": "array",
        "items": {"type": "string", "maxLength": MAX_PATH},
        "minItems": 1,
        "maxItems": MAX_PATHS,
        "description": "Read and write files there and nothing else: /var/log/ is a folder, * is part of a name",
    },
    "ticket": TEXT,
}
_AT_ONCE = {name: schema for name, schema in _NARROWER.items() if name != "starts_at"}
_VERDICT = _object({"verdict": {"enum": ["approve", "refuse"]}}, {"note": TEXT}, closed=True)
_NOTHING = _object({}, closed=True)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. ``gives`` names a schema, or is a media type that is no JSON."""

    method: str
    path: str
    summary: str
    gives: str = "Something"
    takes: Schema | None = None
    query: dict[str, Schema] = field(default_factory=dict)
    status: int = 200
    is_open: bool = False
    """Whether nobody has to be logged in."""
    form: bool = False


_FILTER = {
    "kind": TEXT, "identity": TEXT, "target": TEXT, "scope": TEXT, "session": TEXT, "grant": TEXT, "since": TEXT,
    "after_seq": TEXT, "limit": TEXT, "follow": TEXT,
}  # fmt: skip

OPERATIONS = (
    Operation("post", "/requests", "Ask for access for yourself", "Answer", _object(_WISH, _NARROWER, closed=True),
              status=201),
    Operation("get", "/requests", "Requests that wait: yours, and those you may answer", "Requests"),
    Operation("get", "/requests/{id}", "One request, its stage and its answers; with wait, as soon as there are more "
              "than so many answers or it waits for none", "Told",
              query={"wait": _count(MAX_WAIT), "answers": _count(MAX_LIMIT)}),
    Operation("post", "/requests/{id}/review", "Approve or refuse a request", "Answer", _VERDICT),
    Operation("post", "/requests/{id}/withdraw", "Take a request back", "Withdrawn", _NOTHING),
    Operation("post", "/requests/{id}/acknowledge", "Answer for a break-glass afterwards", "Acknowledgement", _VERDICT),
    Operation("post", "/break-glass", "Open at once, and be reviewed afterwards", "Answer",
              _object(_WISH, _AT_ONCE, closed=True), status=201),
    Operation("get", "/break-glass", "Break-glass that nobody has answered for", "Requests"),
    Operation("post", "/grants", "Give somebody access, as your own review of it", "Answer",
              _object({"who": TEXT} | _WISH, _NARROWER, closed=True), status=201),
    Operation("get", "/grants", "Live grants: yours, and those you oversee", "Grants"),
    Operation("post", "/grants/{id}/extend", "Ask that a grant may end later", "Answer",
              _object({"duration": DURATION, "reason": _REASON}, {"ticket": TEXT, "seen_end": INSTANT}, closed=True)),
    Operation("post", "/grants/{id}/revoke", "End a grant", "Grants", _NOTHING),
    Operation("post", "/grants/revoke", "End every grant of somebody for a target", "Grants",
              _object({"who": TEXT, "target": TEXT}, closed=True)),
    Operation("get", "/access", "What you may reach", "Grants"),
    Operation("get", "/access/review", "Standing access: who has what, used when, ending soon", "ReviewOfAccess",
              query={"unused": DURATION, "ending": DURATION, "format": {"enum": ["json", "csv"]}}),
    Operation("post", "/certificates", "Certify your key for the scope of a target", takes=_object(
              {"public_key": TEXT, "target": TEXT}, closed=True), status=201),
    Operation("get", "/ssh", "What a client's ssh needs to know"),
    Operation("get", "/sessions", "Sessions you may replay",
              query={"live": TEXT, "identity": TEXT, "target": TEXT, "limit": TEXT}),
    Operation("get", "/sessions/{id}", "One session"),
    Operation("get", "/sessions/{id}/recording", "Its recording", "application/x-asciicast",
              query={"format": {"enum": ["v2", "v3", "raw"]}, "follow": TEXT}),
    Operation("get", "/events", "The audit log", "application/jsonl", query=_FILTER),
    Operation("post", "/tokens", "Make a token for a script; its secret is in this answer alone", "NewToken", _object(
              {"name": TEXT, "uses": {"type": "array", "items": {"enum": list(Use)}, "minItems": 1},
               "duration": DURATION}, {"network": TEXT}, closed=True), status=201),
    Operation("get", "/tokens", "Your tokens", "Tokens"),
    Operation("post", "/tokens/{id}/revoke", "End one now", "EndedToken", _NOTHING),
    Operation("get", "/whoami", "Who you are here"),
    Operation("post", "/logout", "End your login, and your sessions", takes=_NOTHING),
    Operation("post", "/token", "Exchange a login's code", takes=_object({"code": TEXT, "verifier": TEXT}, closed=True),
              is_open=True),
    Operation("post", "/device", "Begin a login on another device (RFC 8628)", takes=_object({"client": TEXT},
              {"step_up": {"type": "string", "pattern": f"^{remedy.PATTERN}$"}}, closed=True), is_open=True),
    Operation("post", "/token/device", "Ask whether it is done", takes=_object({"device_code": TEXT}, closed=True),
              is_open=True),
    Operation("post", "/token/exchange", "Exchange a workload's token (RFC 8693)", takes=_object(
              {"grant_type": TEXT, "subject_token": TEXT, "subject_token_type": TEXT}, {"requested_token_type": TEXT}),
              is_open=True, form=True),
    Operation("get", "/openapi.json", "This description", is_open=True),
)  # fmt: skip

_ERRORS = {
    "400": "It is not what the description says.",
    "401": "Nobody is logged in, or not as a policy demands; then step_up says how (RFC 9470).",
    "403": "Place, policy or a law forbid it; the sentence says which.",
    "404": "What it names does not exist, or not for you.",
    "409": "Something has changed since.",
    "413": f"The body is longer than {MAX_BODY} bytes.",
    "429": "Too often; Retry-After says when to try again.",
    "503": "A part that is needed does not answer; nothing was changed.",
}


def routes() -> list[web.RouteDef]:
    """The route of the description, which is nobody's secret."""
    described = description()

    async def show(request: web.Request) -> web.Response:
        return web.json_response(described)

    return [web.get(f"{PREFIX}/openapi.json", show, allow_head=False)]


def description() -> Schema:
    """The whole document."""
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        paths.setdefault(f"{PREFIX}{operation.path}", {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Bastion", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "login": {"type": "http", "scheme": "bearer"},
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "For scripts, of POST /tokens. The roles are what it must be for: all of them.",
                },
            },
        },
    }


def _described(operation: Operation) -> Schema:
    is_json = "/" not in operation.gives
    content: Schema = {"application/json": {"schema": _ref(operation.gives)}} if is_json else {operation.gives: {}}
    if "format" in operation.query and "csv" in operation.query["format"]["enum"]:
        content |= {"text/csv": {}}
    errors = {
        status: {"description": text, "content": {"application/json": {"schema": _ref("Error")}}}
        for status, text in _ERRORS.items()
    }
    found: Schema = {
        "summary": operation.summary,
        "operationId": f"{operation.method} {operation.path}",
        "responses": {str(operation.status): {"description": operation.summary, "content": content}} | errors,
        "security": _security(operation),
    }
    if parameters := _parameters(operation):
        found["parameters"] = parameters
    if operation.takes is not None:
        media = "application/x-www-form-urlencoded" if operation.form else "application/json"
        found["requestBody"] = {"required": True, "content": {media: {"schema": operation.takes}}}
    return found


def _security(operation: Operation) -> list[Schema]:
    """Roles beside a bearer scheme are of OpenAPI 3.1 (Security Requirement Object)."""
    if operation.is_open:
        return []
    uses = sorted(uses_of(operation.method, operation.path))
    return [{"login": []}, *([{"token": uses}] if uses else [])]


def _parameters(operation: Operation) -> list[Schema]:
    parameters: list[Schema] = [
        {"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()
    ]
    if "{id}" in operation.path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}})
    return parameters
