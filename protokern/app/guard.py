"""Who may ask the server what: only pages of its own, opened on this machine by somebody who has the address."""

from __future__ import annotations

import secrets
from typing import Any

Scope = dict[str, Any]
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


# What an answer has unless it says otherwise: opened as a page of its own it may do nothing, and no copy is kept.
_UNLESS_GIVEN = (
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)


def new_token() -> str:
    """A part of the address that nobody can guess."""
    return secrets.token_urlsafe(24)


def policy(nonce: str) -> str:
    """The content security policy of a page: nothing from elsewhere, and no script or style but its own."""
    own = f"'nonce-{nonce}'"
    return (
        f"default-src 'none'; script-src {own}; style-src {own}; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Guard:
    """Lets a request through only if its token, Host, Origin and method are right.

    The token is the first part of every path. A foreign page that knows the port can neither guess it, nor make a
    browser send this machine's name as Host (DNS rebinding), nor post without its Origin.

    Args:
        app: what is guarded (ASGI).
        token: see `new_token`.
        port: of the server.
    """

    def __init__(self, app: Any, token: str, port: int) -> None:
        self._app, self._token = app, token.encode()
        self._hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer a request of the web; there are no others."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name for name, _ in given}
                given += [(name, value) for name, value in _UNLESS_GIVEN if name not in names]
                message = {**message, "headers": [*given, *_HEADERS]}
            await send(message)

        status, text = self._judge(scope)
        if status:
            plain = [(b"content-type", b"text/plain; charset=utf-8")]
            await send_with_headers({"type": "http.response.start", "status": status, "headers": plain})
            await send({"type": "http.response.body", "body": text.encode()})
            return
        await self._app(scope, receive, send_with_headers)

    def _judge(self, scope: Scope) -> tuple[int, str]:
        """A status and why a request is refused; 0: it is not."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        host = headers.get(b"host", [])
        if len(host) != 1 or host[0] not in self._hosts:
            return 421, "This server answers on this machine alone."
        own = {b"http://" + one for one in self._hosts}
        if any(origin not in own for origin in headers.get(b"origin", [])):
            return 403, "This server answers to its own pages alone."
        is_visit = headers.get(b"sec-fetch-mode") == [b"navigate"] and scope["method"] == "GET"
        if headers.get(b"sec-fetch-site", [b"none"])[0] not in (b"same-origin", b"none") and not is_visit:
            return 403, "This server answers to its own pages alone."
        first = scope["path"].split("/")[1] if scope["path"].startswith("/") else ""
        if not secrets.compare_digest(first.encode("utf-8", "replace"), self._token):
            return 404, "There is no such page. Use the whole address that the terminal shows."
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "The methods are GET and POST."
        return 0, ""
