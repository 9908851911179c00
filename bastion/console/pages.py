"""Small HTML pages without script or anything from elsewhere; light and dark, wide and narrow."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from aiohttp import web

_STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --paper: #f6f7f9; --card: #fff; --line: #d9dee5; --mark: #1f5fbf;
  --alarm: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --paper: #12161c; --card: #1b2129; --line: #323b47; --mark: #7fb0ff;
    --alarm: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
main { width: 100%; max-width: 32rem; background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: 1.75rem; overflow-wrap: anywhere; }
h1 { margin: 0 0 .75rem; font-size: 1.35rem; line-height: 1.25; }
p { margin: .5rem 0; }
ul { list-style: none; margin: 1rem 0 0; padding: 0; }
a { color: var(--mark); }
button, a.button { display: inline-block; margin-top: 1rem; padding: .6rem 1.1rem; border: 0; border-radius: .5rem;
  background: var(--mark); color: var(--card); font: inherit; font-weight: 600; text-decoration: none;
  cursor: pointer; }
button:focus-visible, a:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
small { opacity: .75; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1rem; margin: 1rem 0; }
dt { opacity: .75; }
dd { margin: 0; }
label { display: block; margin-top: 1rem; font-weight: 600; }
input { width: 100%; margin-top: .35rem; padding: .6rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--paper); color: var(--ink); font: inherit; }
input:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
.code { font: 600 1.6rem/1.3 ui-monospace, monospace; letter-spacing: .08em; text-align: center; }
.warning { padding: .75rem 1rem; border: 2px solid var(--alarm); border-radius: .5rem; }
a.button.wide { display: block; text-align: center; }
.choice { display: flex; gap: .75rem; }
.choice button { flex: 1; }
button.second { background: none; color: var(--ink); border: 1px solid var(--line); }
@media (max-width: 26rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; } }
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")


def content_security_policy(form_action: str = "'self'") -> str:
    """Nothing is loaded, nothing runs, nobody frames it; the one style is known by its hash (CSP Level 3).

    ``form_action`` names the places that a form of the page may end at, redirects included.
    """
    return (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action {form_action}; "
        "frame-ancestors 'none'; base-uri 'none'"
    )


def page(title: str, body: str, *, status: int = 200, form_action: str = "'self'") -> web.Response:
    """One page. ``title`` is text; ``body`` is HTML, in which `escape` was applied to everything that is not ours."""
    html = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{escape(title)} · Bastion</title><style>{_STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n{body}\n</main></body></html>\n"
    )
    headers = {"Content-Security-Policy": content_security_policy(form_action)}
    return web.Response(text=html, content_type="text/html", status=status, headers=headers)


def error_page(status: int, sentence: str) -> web.Response:
    """A page that says what went wrong and what to do."""
    title = {401: "Please log in", 403: "Not possible", 404: "Not here", 503: "Not available now"}
    return page(title.get(status, "That did not work"), f"<p>{escape(sentence)}</p>", status=status)
