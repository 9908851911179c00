"""The way from a page to a login that is made anew, and back to the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import urlencode

from bastion.core.identity import Identity
from bastion.core.remedy import Remedy


def demanded(remedy: Remedy) -> str:
    """HTML: what kind of login it takes, to be read after that word."""
    return f"{escape(remedy.how)}, made just now" if remedy.how else "that is more recent than yours"


def button(remedy: Remedy, identity: Identity, back: str, issuers: Sequence[str]) -> str:
    """HTML: to the issuer of ``identity``, which is one of ``issuers`` in the order of the login, and to ``back``."""
    query = {**remedy.query, "next": back}
    if identity.id.issuer in issuers:
        query["issuer"] = str(issuers.index(identity.id.issuer))
    how = escape(remedy.how or "once more")
    return f'<a class="button" href="/login?{escape(urlencode(query))}">Log in {how}</a>'
