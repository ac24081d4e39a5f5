"""What every request has to pass before the review server answers it.

Who asks must be a page of this server, in a browser of this machine or of somebody who has the token:

- ``Host`` must name this server, so that a foreign name that resolves to it (DNS rebinding) is refused.
- ``Origin`` and ``Sec-Fetch-Site``, where a browser sends them, must be this server's own; another site
  may open the page, but neither read from it nor write through it.
- What writes must carry the key of this server's run, which only its own pages can read (CSRF).
- Served beyond this machine, every request needs the token of the address that was printed.
- A request's body is at most 1 MB, whatever its headers say, and these are at most 16 KB.

Answers carry a strict content security policy: scripts, styles and pictures of this server alone.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

MAX_BODY = 1_000_000
MAX_HEAD = 16_384
"""Bytes of a request's body, and of its address and headers."""
COOKIE = "hardmine_token"
KEY_HEADER = b"x-hardmine-key"
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Access:
    """Who may ask: ``host`` and ``port`` are those that the server is bound to.

    ``key`` is what writing requests carry; ``token`` what every request from another machine does,
    ``None`` for a server that only this machine reaches.
    """

    host: str
    port: int
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    token: str | None = None

    @staticmethod
    def of(host: str, port: int) -> Access:
        """Return the access for an address, with a new token where it is reached from elsewhere."""
        return Access(host, port, token=None if is_loopback(host) else secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """The address to open, with the token where one is needed."""
        name = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        place = f"http://{f'[{name}]' if ':' in name else name}:{self.port}/"
        return place if self.token is None else f"{place}?token={self.token}"

    def knows_host(self, given: str) -> bool:
        """Say whether a ``Host`` header (or the place in an ``Origin``) names this server."""
        try:
            parts = urlsplit(f"//{given}")
            name, port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        if port != self.port or parts.username is not None or parts.path:
            return False
        if name == "localhost" or name == self.host.lower():
            return True
        if self.token is None:
            return is_loopback(name)
        return _is_address(name) or name == socket.gethostname().lower()


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine alone."""
    if host.lower() == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class RequestGuard:
    """Wraps an ASGI application; see the module."""

    def __init__(self, app: App, access: Access) -> None:
        self._app = app
        self._access = access
        self._cookie = f"{COOKIE}_{access.port}"  # browsers keep one for all ports of a machine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            return
        headers = _headers(scope)
        refused = self._refusal(scope, headers)
        if refused is not None:
            await _refuse(send, *refused)
            return
        if self._access.token is not None and _token_given(scope) is not None:
            await self._enter(send)
            return
        body = await _read_body(receive)
        if body is None:
            await _refuse(send, 413, f"a request holds at most {MAX_BODY} bytes")
            return

        async def guarded_send(message: Message) -> None:
            """Send an answer with the headers that protect the page."""
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, _replay(body, receive), guarded_send)

    def _refusal(self, scope: Scope, headers: dict[bytes, list[str]]) -> tuple[int, str] | None:
        """Return why a request is refused, with its status."""
        length = len(scope["raw_path"]) + len(scope["query_string"])
        if length + sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD:
            return 431, f"an address with its headers holds at most {MAX_HEAD} bytes"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "only GET and POST"
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or not self._access.knows_host(hosts[0]):
            return 403, "this server does not have that name"
        origin = headers.get(b"origin", [])
        if origin and not all(self._knows_origin(each) for each in origin):
            return 403, "the request comes from another site"
        site = headers.get(b"sec-fetch-site", ["same-origin"])
        opens_page = scope["method"] == "GET" and scope["path"] == "/"
        if not opens_page and any(each not in ("same-origin", "none") for each in site):
            return 403, "the request comes from another site"
        if not self._has_token(scope, headers):
            return 401, "open the address that the server printed: it holds a token"
        if scope["method"] == "POST":
            keys = headers.get(KEY_HEADER, [])
            if len(keys) != 1 or not _same(keys[0], self._access.key):
                return 403, "the key of this server's run is missing: load the page again"
            lengths = headers.get(b"content-length", ["0"])
            if len(lengths) > 1 or not lengths[0].isdecimal() or int(lengths[0]) > MAX_BODY:
                return 413, f"a request holds at most {MAX_BODY} bytes"
        return None

    def _knows_origin(self, origin: str) -> bool:
        scheme, _, place = origin.partition("://")
        return scheme == "http" and self._access.knows_host(place)

    def _has_token(self, scope: Scope, headers: dict[bytes, list[str]]) -> bool:
        if self._access.token is None:
            return True
        given = _token_given(scope)
        if given is not None:
            return scope["path"] == "/" and _same(given, self._access.token)
        for line in headers.get(b"cookie", []):
            try:
                cookie = SimpleCookie(line).get(self._cookie)
            except CookieError:
                continue
            if cookie is not None and _same(cookie.value, self._access.token):
                return True
        return False

    async def _enter(self, send: Send) -> None:
        """Keep the token in a cookie and take it out of the address."""
        cookie = f"{self._cookie}={self._access.token}; HttpOnly; SameSite=Strict; Path=/"
        headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), *_HEADERS]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _headers(scope: Scope) -> dict[bytes, list[str]]:
    found: dict[bytes, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.lower(), []).append(value.decode("latin-1"))
    return found


def _token_given(scope: Scope) -> str | None:
    given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
    return given[0] if given else None


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())


async def _read_body(receive: Receive) -> bytes | None:
    """Return a request's body; ``None`` for one that is too large, whatever its headers say."""
    parts: list[bytes] = []
    total = 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        total += len(parts[-1])
        if total > MAX_BODY:
            return None
        if message["type"] != "http.request" or not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body that was read, and then waits as the server does."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        """Return the messages that were read already, then those that follow."""
        return waiting.pop() if waiting else await receive()

    return replay


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
