"""A browser without a window, for the demo and the tests: follows redirects, keeps cookies, presses buttons.

``python -m bastion.demo.browser SUBJECT URL`` picks the account SUBJECT at the demo provider and says yes to the
bastion's question. With ``BROWSER="python -m bastion.demo.browser alice %s"`` it is what `bastion login` opens.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

MAX_STEPS = 20


@dataclass(frozen=True, slots=True)
class Page:
    """Where a browser has arrived."""

    url: str
    status: int
    headers: Mapping[str, str]
    text: str


class ScriptedBrowser:
    """Speaks plain HTTP, which is all that the loopback needs. ``source`` is the address to connect from."""

    def __init__(self, *, source: str | None = None) -> None:
        self.cookies: dict[str, dict[str, str]] = {}
        """By host and port, then by name."""
        self._source = source

    def get(self, url: str, *, follow: bool = True) -> Page:
        """The page at ``url``, after its redirects."""
        return self._follow(self._once("GET", url, None), follow)

    def post(self, url: str, form: Mapping[str, str], *, follow: bool = True) -> Page:
        """The page that answers a form, sent as by a page of the same site."""
        return self._follow(self._once("POST", url, form), follow)

    def submit(self, page: Page, *, follow: bool = True, **chosen: str) -> Page:
        """Press the button of the one form on ``page``; ``chosen`` is what the person picked."""
        form = read_form(page)
        return self.post(urljoin(page.url, form.action), {**form.hidden, **chosen}, follow=follow)

    def log_in(self, url: str, subject: str) -> Page:
        """All the way of a login: the provider's account, the bastion's question, and where that ends."""
        page = self.get(url)
        if "/authorize" in urlsplit(page.url).path:
            page = self.submit(page, account=subject)
        if 'action="/login/cli/confirm"' in page.text:
            page = self.submit(page)
        return page

    def _follow(self, page: Page, follow: bool) -> Page:
        for _ in range(MAX_STEPS):
            if not follow or page.status not in (301, 302, 303):
                return page
            page = self._once("GET", urljoin(page.url, page.headers["location"]), None)
        raise RuntimeError(f"more than {MAX_STEPS} redirects")

    def _once(self, method: str, url: str, form: Mapping[str, str] | None) -> Page:
        parts = urlsplit(url)
        if parts.scheme != "http":
            raise ValueError(f"{parts.scheme}: is not spoken here")
        jar = self.cookies.setdefault(parts.netloc, {})
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in jar.items())} if jar else {}
        body = None
        if form is not None:
            body = urlencode(form)
            headers |= {
                "Content-Type": "application/x-www-form-urlencoded",
                "Origin": f"{parts.scheme}://{parts.netloc}",
                "Sec-Fetch-Site": "same-origin",
            }
        source = (self._source, 0) if self._source else None
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30, source_address=source)
        try:
            connection.request(method, f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}", body, headers)
            response = connection.getresponse()
            text = response.read().decode("utf-8", "replace")
        finally:
            connection.close()
        for line in response.headers.get_all("Set-Cookie", []):
            _keep(jar, line)
        return Page(url, response.status, {name.lower(): value for name, value in response.headers.items()}, text)


@dataclass(frozen=True, slots=True)
class Form:
    action: str
    hidden: dict[str, str]


def read_form(page: Page) -> Form:
    """The one form of a page.

    Raises:
        ValueError: it has none; the sentence has what it says instead.
    """
    parser = _FormParser()
    parser.feed(page.text)
    if parser.action is None:
        raise ValueError(f"{page.url} has no form: {page.status} {page.text[-300:]}")
    return Form(parser.action, parser.hidden)


class _FormParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.hidden: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = values.get("action", "")
        elif tag == "input" and values.get("type") == "hidden":
            self.hidden[values["name"]] = values.get("value", "")


def _keep(jar: dict[str, str], line: str) -> None:
    for name, morsel in SimpleCookie(line).items():
        if morsel["max-age"] == "0":
            jar.pop(name, None)
        else:
            jar[name] = morsel.value


def main() -> None:
    """``SUBJECT URL``; exit status 1 when the way did not end well."""
    subject, url = sys.argv[1:]
    page = ScriptedBrowser().log_in(url, subject)
    if page.status != 200:
        sys.exit(f"the login ended at {page.url} with {page.status}: {page.text[-500:]}")


if __name__ == "__main__":
    main()
