"""Small HTML pages without script or anything from elsewhere; light and dark, wide and narrow."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from aiohttp import web

_STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --paper: #f3f5f8; --card: #fff; --line: #d5dbe3; --mark: #1f5fbf;
  --alarm: #b3261e; --soft: #5a6675; --sans: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  --mono: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --paper: #12161c; --card: #1b2129; --line: #3a4450; --mark: #7fb0ff; --alarm: #ff8a80;
    --soft: #a5b0bd; }
}
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 var(--sans); }
main { width: 100%; max-width: 33rem; background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: 1.75rem; overflow-wrap: anywhere; }
main.wide { max-width: 72rem; place-self: start center; }
h1 { margin: 0 0 .6rem; font-size: 1.35rem; line-height: 1.25; }
p { margin: .5rem 0; }
ul { list-style: none; margin: 1rem 0 0; padding: 0; }
a { color: var(--mark); }
code { font: .92em var(--mono); }
button, a.button { display: inline-flex; align-items: center; justify-content: center; min-height: 2.9rem;
  margin-top: 1rem; padding: .4rem 1.1rem; border: 0; border-radius: .5rem; background: var(--mark);
  color: var(--card); font: 600 1rem/1.2 var(--sans); text-align: center; text-decoration: none; cursor: pointer; }
button:focus-visible, a:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
small { color: var(--soft); font-size: .85em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; }
label { display: block; margin-top: 1rem; font-weight: 600; }
input { width: 100%; min-height: 2.9rem; margin-top: .35rem; padding: .4rem .6rem; border: 1px solid var(--soft);
  border-radius: .5rem; background: var(--paper); color: var(--ink); font: inherit; }
input:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
.code { margin: .35rem 0; padding: .35rem; border-radius: .5rem; background: var(--paper);
  font: 600 1.7rem/1.3 var(--mono); letter-spacing: .08em; text-align: center; }
.warning { padding: .75rem 1rem; border: 2px solid var(--alarm); border-radius: .5rem; }
.choice { position: sticky; bottom: 0; display: flex; gap: .75rem; margin: .5rem 0 -.75rem; padding-bottom: .75rem;
  background: var(--card); }
.choice > * { flex: 1 1 0; }
.choice > a.button { flex-grow: 2; }
.picker { display: flex; flex-wrap: wrap; align-items: end; gap: .75rem 1rem; }
.picker > label { margin: 0; }
.picker > button { margin: 0; }
select { display: block; min-width: 7rem; min-height: 2.9rem; margin-top: .35rem; padding: .4rem .6rem;
  border: 1px solid var(--soft); border-radius: .5rem; background: var(--paper); color: var(--ink); font: inherit; }
select:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
.rows { width: 100%; margin: 1rem 0; border-collapse: collapse; }
.rows th { padding: .4rem .75rem .4rem 0; color: var(--soft); font-weight: 600; text-align: left; white-space: nowrap; }
.rows td { padding: .6rem .75rem .6rem 0; border-top: 1px solid var(--line); vertical-align: top; }
.rows td:first-child { min-width: 12rem; }
.rows td:nth-child(3), .rows td:nth-child(4) { white-space: nowrap; }
.mark { padding: .1rem .5rem; border: 1px solid var(--alarm); border-radius: 1rem; color: var(--alarm);
  font-size: .8em; white-space: nowrap; }
button.alarm { background: var(--alarm); }
button.second { background: none; color: var(--ink); border: 1px solid var(--soft); }
@media (max-width: 30rem) {
  body { place-items: start stretch; padding: 0; background: var(--card); font-size: .95rem; line-height: 1.4; }
  main { padding: 1rem; border: 0; }
  dl { gap: .3rem .75rem; margin: .75rem 0; }
  .choice > button, .choice > a.button { margin-top: .6rem; }
  .picker > label { flex: 1 1 7rem; }
  .picker > button, select { width: 100%; }
  .rows thead { display: none; }
  .rows, .rows tbody, .rows tr, .rows td { display: block; padding: 0; border: 0; }
  .rows tr { padding: .75rem 0; border-top: 1px solid var(--line); }
  .rows td:first-child { min-width: 0; }
  .rows td { display: grid; grid-template-columns: 5.5rem 1fr; gap: .5rem; }
  .rows td::before { content: attr(data-label); color: var(--soft); }
}
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


def page(title: str, body: str, *, status: int = 200, form_action: str = "'self'", wide: bool = False) -> web.Response:
    """One page. ``title`` is text; ``body`` is HTML, in which `escape` was applied to everything that is not ours."""
    main = '<main class="wide">' if wide else "<main>"
    html = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{escape(title)} · Bastion</title><style>{_STYLE}</style></head>\n"
        f"<body>{main}<h1>{escape(title)}</h1>\n{body}\n</main></body></html>\n"
    )
    headers = {"Content-Security-Policy": content_security_policy(form_action)}
    return web.Response(text=html, content_type="text/html", status=status, headers=headers)


def error_page(status: int, sentence: str) -> web.Response:
    """A page that says what went wrong and what to do."""
    title = {401: "Please log in", 403: "Not possible", 404: "Not here", 429: "Too often", 503: "Not available now"}
    return page(title.get(status, "That did not work"), f"<p>{escape(sentence)}</p>", status=status)
