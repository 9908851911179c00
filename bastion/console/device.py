"""The page where somebody finishes the login of an SSH client that shows a code (RFC 8628, section 3.3).

The danger is a code that somebody else sends: whoever approves it lends their grants to the sender's connection. So the
page says everything about the connection, changes nothing before a button of its own was pressed, and a browser that is
elsewhere than the client must be given the code by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from aiohttp import web

from bastion.access.confirmation import Confirmation, Question
from bastion.access.devicelogin import Knock, read_code
from bastion.console import anew
from bastion.console.caller import CALLERS, Caller, check_same_origin
from bastion.console.login import browser_caller
from bastion.console.pages import page
from bastion.core.errors import Conflict, Refused
from bastion.core.geofence import Address
from bastion.core.remedy import Remedy, StepUpNeeded


def routes(*, confirmation: Confirmation, issuers: Sequence[str]) -> list[web.RouteDef]:
    """The page that asks for a code, the page of a code, and the forms on both.

    ``issuers`` are those of the login, in its order: who has to log in anew is sent to their own.
    """
    pages = _Pages(confirmation, tuple(issuers))
    return [
        web.get("/device", pages.ask_code, allow_head=False),
        web.post("/device", pages.take_code),
        web.get("/device/{code:[A-Za-z-]{8,9}}", pages.ask, allow_head=False),
        web.post("/device/{code:[A-Za-z-]{8,9}}", pages.answer),
    ]


class _Pages:
    def __init__(self, confirmation: Confirmation, issuers: Sequence[str]) -> None:
        self._confirmation = confirmation
        self._issuers = issuers

    async def ask_code(self, request: web.Request) -> web.Response:
        await browser_caller(request)
        return _code_page()

    async def take_code(self, request: web.Request) -> web.Response:
        """To the page of the code that was typed. Nothing is looked up here, so nothing is learnt."""
        check_same_origin(request, request.app[CALLERS].origin)
        code = read_code(_field(await request.post(), "code"))
        if code is None:
            return _code_page("That cannot be a code. It has eight letters, like WDJB-MJHT.")
        return web.Response(status=303, headers={"Location": f"/device/{code}"})

    async def ask(self, request: web.Request) -> web.Response:
        caller = await browser_caller(request)
        question = await self._confirmation.look(request.match_info["code"], caller.identity, caller.place)
        return self._question_page(question, caller)

    async def answer(self, request: web.Request) -> web.Response:
        caller, _ = await request.app[CALLERS].of_form(request)
        form, code = await request.post(), request.match_info["code"]
        if _field(form, "identity") != str(caller.identity.id):
            raise Conflict("You are logged in as somebody else than when this page was shown. Open it again.")
        match _field(form, "answer"):
            case "approve":
                try:
                    knock = await self._confirmation.approve(code, _field(form, "typed"), caller.identity, caller.place)
                except StepUpNeeded:  # the login has become too old while they read; the page says what to do
                    return web.Response(status=303, headers={"Location": f"/device/{code}"})
                return _done_page(knock)
            case "refuse":
                await self._confirmation.refuse(code, caller.identity, caller.place)
                return page("Refused", "<p>It was refused. Nobody was logged in by it.</p>")
            case _:
                raise Refused("This form was not sent by a page of the bastion.")

    def _question_page(self, question: Question, caller: Caller) -> web.Response:
        knock, identity, code = question.pending.knock, caller.identity, question.pending.code
        facts = {
            "Target": _opens(knock),
            "Comes from": _where(knock.address, knock.country),
            "Program": f"<code>{escape(knock.client)}</code>",
            "Key": _key(knock),
            "Logs in as": f"<strong>{escape(identity.display)}</strong><br><small>{escape(str(identity.id))}</small>",
        }
        listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items() if value)
        step_up, must = question.prospect.step_up, question.must_step_up is not None
        link = "" if step_up is None else anew.button(step_up.remedy, identity, f"/device/{code}", self._issuers)
        body = (
            f"<p>{_who_asks(knock)} asks to work as you. Approve only what you started yourself, just now.</p>"
            + (_warning(question) if question.elsewhere else "")
            + ("" if must or question.elsewhere else _compared(code))
            + f'<dl>{listed}</dl><form method="post" action="/device/{escape(code)}">'
            + f'<input type="hidden" name="identity" value="{escape(str(identity.id))}">'
            + (_typed() if question.elsewhere and not must else "")
            + ("" if step_up is None else _demand(step_up.remedy, link, must=must))
            + '<div class="choice">'
            + (link if must else '<button name="answer" value="approve">Approve</button>')
            + '<button name="answer" value="refuse" class="second" formnovalidate>Refuse</button></div></form>'
        )
        return page("Is this your terminal?", body)


def _demand(remedy: Remedy, link: str, *, must: bool) -> str:
    what = anew.demanded(remedy)
    if must:
        return f"<p>This asks for a login {what}. Your terminal waits meanwhile.</p>"
    return f"<p>A part of what your grant covers asks for a login {what}. Without it, the rest opens.</p>{link}"


def _field(form: object, name: str) -> str:
    """A field of a form, empty when it is not there; a file in its place is not one."""
    value = form.get(name) if hasattr(form, "get") else None
    return value if isinstance(value, str) else ""


def _code_page(problem: str = "") -> web.Response:
    body = (
        (f'<p class="warning" role="alert">{escape(problem)}</p>' if problem else "")
        + '<form method="post" action="/device"><label for="code">The code that your terminal shows</label>'
        + f'<input id="code" name="code" placeholder="XXXX-XXXX" autofocus {_CODE_INPUT}>'
        + '<button type="submit">Continue</button></form>'
    )
    return page("Log in a terminal", body, status=400 if problem else 200)


_CODE_INPUT = 'class="code" required autocomplete="off" autocapitalize="characters" spellcheck="false" maxlength="16"'


def _key(knock: Knock) -> str:
    if knock.is_command_line:
        return ""
    return f"<code>{escape(knock.key)}</code>" if knock.key else "none was shown"


def _who_asks(knock: Knock) -> str:
    return "A command line" if knock.is_command_line else "An SSH client"


def _opens(knock: Knock) -> str:
    if knock.is_command_line:
        return "<strong>everything that your grants allow</strong>, by <code>bastion login --device</code>"
    return f"<strong>{escape(knock.target)}</strong> as <strong>{escape(knock.login)}</strong>"


def _warning(question: Question) -> str:
    knock = question.pending.knock
    return (
        '<p class="warning" role="alert"><strong>This connection does not come from where you are.</strong> It comes '
        f"from {_where(knock.address, knock.country)}; your browser is at "
        f"{_where(question.place.address, question.place.country)}. If somebody sent you a link or a code, refuse: "
        "they would work in your name.</p>"
    )


def _compared(code: str) -> str:
    return f'<p>Your terminal must show exactly this code:</p><p class="code">{escape(code)}</p>'


def _typed() -> str:
    """The code is not shown: it must come from a terminal that the person sees."""
    return (
        '<label for="typed">Copy the code from your own terminal</label>'
        f'<input id="typed" name="typed" placeholder="XXXX-XXXX" {_CODE_INPUT}>'
    )


def _where(address: Address, country: str | None) -> str:
    return f"<strong>{address}</strong> ({escape(country) if country else 'country unknown'})"


def _done_page(knock: Knock) -> web.Response:
    if knock.is_command_line:
        text = "Go back to your terminal: its command line is logged in."
    else:
        what = f"<strong>{escape(knock.login)} on {escape(knock.target)}</strong>"
        text = f"Go back to your terminal: {what} opens by itself, if a grant of yours covers it."
    return page("Approved", f"<p>{text}</p><p>You can close this window.</p>")
