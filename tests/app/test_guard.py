"""Who gets an answer: pages of the server alone, on this machine, by the whole address; and nothing but the run's."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from protokern.app.server import open_port
from protokern.errors import ConfigError
from tests.app.served import TOKEN, Served
from tests.cli.pushed_run import PushedRun

SAME_ON_ALL = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
GETS = ("", "state", "images", "near?prototype=0", "explain?image=test/0", "explain", "pictures/no.jpg", "nothing")


def check_headers(headers: dict[str, str]) -> None:
    assert {name: headers.get(name) for name in SAME_ON_ALL} == SAME_ON_ALL
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


@pytest.mark.parametrize("path", GETS)
def test_every_answer_has_the_headers(read_only: Served, path: str) -> None:
    reply = read_only.get(path)
    assert reply.status in (200, 400, 404)
    check_headers(reply.headers)
    assert reply.headers["cache-control"] == "no-store"


def test_refusals_and_redirections_have_them_too(read_only: Served) -> None:
    page = f"/{TOKEN}/0/"
    replies = [
        read_only.send("GET", "/"),
        read_only.send("GET", page, headers={"Host": "evil.example"}),
        read_only.send("GET", page, headers={"Origin": "https://evil.example"}),
        read_only.send("DELETE", page),
        read_only.send("POST", page),
        read_only.send("GET", f"/{TOKEN}/"),
        read_only.send("GET", f"/{TOKEN}/0"),
        read_only.send("GET", f"{page}ask"),
    ]
    assert [reply.status for reply in replies] == [404, 421, 403, 405, 405, 307, 307, 405]
    for reply in replies:
        check_headers(reply.headers)
        assert reply.headers["cache-control"] == "no-store"


def test_a_picture_may_be_kept_and_is_nothing_else(read_only: Served) -> None:
    address = read_only.get("images").json["rows"][0][1][0]
    reply = read_only.send("GET", address)
    check_headers(reply.headers)
    assert reply.headers["content-type"] == "image/jpeg"
    assert reply.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert reply.body.startswith(b"\xff\xd8\xff")


def test_the_page_allows_its_own_scripts_alone(read_only: Served) -> None:
    one, two = read_only.get(), read_only.get()
    nonce = one.headers["content-security-policy"].partition("script-src 'nonce-")[2].partition("'")[0]
    assert len(nonce) >= 20
    assert nonce not in two.headers["content-security-policy"]  # a new one each time
    text = one.body.decode()
    assert set(re.findall(r"<(?:script|style)[^>]*>", text)) == {
        '<script type="application/json" id="page">',  # runs nothing
        f'<script nonce="{nonce}">',
        f'<style nonce="{nonce}">',
    }


@pytest.mark.parametrize(
    "path", ["/", "/0/", "/t0ken-of-a_tes/0/", f"/{TOKEN}x/0/", f"//{TOKEN}/0/", f"/x/../{TOKEN}/0/"]
)
def test_without_the_token_there_is_nothing(read_only: Served, path: str) -> None:
    reply = read_only.send("GET", path)
    assert reply.status == 404
    assert TOKEN.encode() not in reply.body


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1",
        "localhost:1",
        "127.0.0.1:{port}.evil.example",
        "evil.example:{port}",
        "0.0.0.0:{port}",
        "",
    ],
)
def test_another_host_is_refused(read_only: Served, host: str) -> None:
    """A foreign name that leads to this machine (DNS rebinding) shows in the Host that the browser sends."""
    assert read_only.send("GET", f"/{TOKEN}/0/", headers={"Host": host.format(port=read_only.port)}).status == 421


def test_both_names_of_this_machine_are_right(read_only: Served) -> None:
    for name in ("127.0.0.1", "localhost"):
        assert read_only.send("GET", f"/{TOKEN}/0/state", headers={"Host": f"{name}:{read_only.port}"}).status == 200


def test_requests_with_no_host_or_two_are_refused(read_only: Served) -> None:
    own = f"Host: 127.0.0.1:{read_only.port}\r\n".encode()
    start = f"GET /{TOKEN}/0/state HTTP/1.".encode()
    assert read_only.raw(start + b"0\r\n" + own + b"\r\n").startswith(b"HTTP/1.1 200")
    assert read_only.raw(start + b"0\r\n\r\n").startswith(b"HTTP/1.1 421")
    for two in (own + own, own + b"Host: evil.example\r\n"):
        for version in (b"0", b"1"):
            closing = b"\r\n" + two + b"Connection: close\r\n\r\n"
            assert read_only.raw(start + version + closing)[:13] in (b"HTTP/1.1 421 ", b"HTTP/1.1 400 ")


def test_requests_of_foreign_pages_are_refused(read_only: Served) -> None:
    def status(method: str = "GET", **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = b"{}" if method == "POST" else None
        return read_only.send(method, f"/{TOKEN}/0/{'edits' if body else 'state'}", body, named).status

    own = f"http://127.0.0.1:{read_only.port}"
    assert status(Origin=own, Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors") == 200
    assert status("POST", Origin=own, Sec_Fetch_Site="same-origin") == 400  # it is no edit
    assert status(Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate") == 200  # typed by a person
    for origin in ("https://evil.example", "null", f"https://127.0.0.1:{read_only.port}", "http://127.0.0.1:1", ""):
        assert status(Origin=origin) == 403
        assert status("POST", Origin=origin) == 403
    for site in ("cross-site", "same-site", ""):
        assert status(Sec_Fetch_Site=site) == 403
        assert status("POST", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate") == 403
        assert status(Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors") == 403


def test_a_visit_by_a_link_is_let_in_and_changes_nothing(read_only: Served) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert read_only.send("GET", f"/{TOKEN}/0/", headers=headers).status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "X"])
def test_other_methods_are_refused(read_only: Served, method: str) -> None:
    for path in ("", "state", "edits", "pictures/x.jpg"):
        assert read_only.send(method, f"/{TOKEN}/0/{path}").status == 405


def test_questions_change_nothing_by_get_and_edits_answer_to_post_alone(read_only: Served) -> None:
    for path in ("ask", "window", "edits", "save"):
        assert read_only.get(path).status == 405
    for path in ("", "state", "images", "near", "explain"):
        assert read_only.post(path, {}).status == 405


OUTSIDE = (
    "pictures/../../etc/passwd",
    "pictures/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "pictures/%2e%2e/%2e%2e/run.toml",
    "pictures/%2fetc%2fpasswd",
    "pictures//etc/passwd",
    "pictures/..\\run.toml",
    "pictures/run.toml",
    "pictures/",
    "pictures",
    "pictures/%00",
    "pictures/" + "a" * 5000,
    "../run.toml",
    "%2e%2e/run.toml",
    "run.toml",
    "edits.jsonl",
    "checkpoints/latest.json",
    "app.js",
    "templates/app.js",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_file_has_an_address(read_only: Served, path: str) -> None:
    reply = read_only.get(path)
    assert reply.status == 404
    assert len(reply.body) < 200


@pytest.mark.parametrize(
    "image",
    ["/etc/passwd", "../run.toml", "test/../train/0", "test//etc/passwd", "train/%3Cb%3Eacross/0.png", "sent/../x"],
)
def test_no_image_is_asked_for_by_its_file(read_only: Served, image: str) -> None:
    reply = read_only.get(f"explain?image={image}")
    assert reply.status == 400
    assert reply.error


def test_a_whole_address_in_the_first_line_changes_no_rule(read_only: Served) -> None:
    own = f"127.0.0.1:{read_only.port}"
    for target, host in ((f"http://{own}/{TOKEN}/0/state", "evil.example"), (f"http://{own}/etc/passwd", own)):
        answer = read_only.raw(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert answer[:13] in (b"HTTP/1.1 421 ", b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")


def test_looking_writes_nothing(read_only: Served, pushed: PushedRun) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted(pushed.folder.rglob("*")) if path.is_file()}

    before = files()
    for path in (*GETS, "explain?image=test/0&frame=sufficient"):
        read_only.get(path)
    read_only.post("window", {"image": "test/0", "window": [0, 0, 1, 1]})
    assert files() == before


def test_an_upgrade_is_answered_as_a_plain_question(read_only: Served) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert read_only.send("GET", f"/{TOKEN}/0/state", headers=headers).status == 200


@pytest.mark.parametrize(
    "content",
    [b"\x16\x03\x01\x00\xa5", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n\r\n", b"\0" * 100_000, b""],
    ids=["TLS", "HTTP/0.9", "HTTP/9.9", "zeros", "nothing"],
)
def test_what_is_no_request_ends_the_connection(read_only: Served, content: bytes) -> None:
    assert read_only.raw(content, ends=True)[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 421")
    assert read_only.get("state").status == 200


def test_only_this_machine_can_connect() -> None:
    with open_port(0) as listening:
        address, port = listening.getsockname()
        assert address == "127.0.0.1"
        # On Linux all of 127.0.0.0/8 is this machine: a socket for every address would answer here too.
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", port))


def test_a_port_is_taken_from_the_first_moment_on() -> None:
    with open_port(0) as listening, pytest.raises(ConfigError) as caught:
        open_port(listening.getsockname()[1])
    assert str(caught.value).startswith("--port: must be free; ")
    assert "Address already in use" in str(caught.value)


@pytest.mark.parametrize("port", [-1, 65536, 10**30])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match="--port: must be free; "):
        open_port(port)
