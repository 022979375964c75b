"""Photographs that are sent: every kind that a run reads, and everything that is none."""

from __future__ import annotations

import http.client
import io
import resource
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_from_bytes

import numpy as np
import pytest
import torch
from PIL import Image

import protokern
from protokern.app import server
from protokern.app.pictures import AddressShelf
from protokern.explain.images import explain_for_people
from protokern.explain.prototypes import describe_prototypes, find_prototypes
from protokern.report.view import View
from protokern.runs.open import open_run
from tests.app.served import PATIENCE, TOKEN, Reply, Served
from tests.cli.pushed_run import SIZE, PushedRun

ORIENTATION = 274  # tag of EXIF
# How a photograph lies in the file, by orientation: what turns the stored picture into the upright one is undone.
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def photo(rows: int = SIZE, columns: int = SIZE) -> Image.Image:
    down, across = np.mgrid[:rows, :columns]
    pixels = np.stack([(7 * down) % 256, (5 * across) % 256, (3 * (down + across)) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def file_of(image: Image.Image, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def ask(served: Served, content: bytes, name: str = "photo.png") -> Reply:
    return served.send("POST", f"/{TOKEN}/0/ask?name={quote(name)}", content)


def answer_to(served: Served, content: bytes, name: str = "photo.png") -> dict:
    reply = ask(served, content, name)
    assert reply.status == 200, reply.body
    table: dict = reply.json
    return table


def totals(served: Served, content: bytes) -> list:
    found: list = answer_to(served, content)["item"]["totals"]
    return found


def test_the_answer_is_that_of_the_net(read_only: Served, pushed: PushedRun, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(file_of(photo(50, 40), "PNG"))
    explanation = protokern.load(pushed.folder).explain(path)
    table = answer_to(read_only, path.read_bytes())
    view = View(links=True, shelf=AddressShelf(read_only.room.pictures), is_tested=False)
    assert drawn(read_only, table["item"]) == drawn(read_only, view.explanation(explanation))
    assert table["run"] == "run"
    assert (table["split"], table["label"], table["tested"]) == ("", None, False)

    images = torch.from_numpy(np.asarray(Image.open(path).resize((SIZE, SIZE), Image.Resampling.BILINEAR)).copy())
    with torch.no_grad():
        output = pushed.model(images.permute(2, 0, 1)[None].float() / 255)
    order = output.logits[0].argsort(descending=True).tolist()
    assert [row[0] for row in table["item"]["totals"]] == [pushed.splits.classes[k] for k in order]
    assert [row[1] for row in table["item"]["totals"]] == [
        f"{output.logits[0, k]:.2f}".replace("-", "\N{MINUS SIGN}") for k in order
    ]


@pytest.mark.parametrize("frame", ["grid", "sufficient"])
def test_an_image_of_the_data_is_explained_as_everywhere(read_only: Served, pushed: PushedRun, frame: str) -> None:
    table = read_only.get(f"explain?image=test/5&frame={frame}").json
    run = open_run(pushed.folder)
    files = find_prototypes(run, pushed.splits)
    pixels, label = pushed.splits.test[5]
    explanation = explain_for_people(
        run.model,
        pixels,
        pushed.splits.test.sample_name(5),
        run.classes,
        describe_prototypes(run.model, run.classes, files, "grid"),
        true_class=label,
        receptive_field=files.field_for(pixels),
    )
    item = View(links=True, shelf=AddressShelf(read_only.room.pictures), is_tested=False).explanation(explanation)
    if frame == "grid":
        assert drawn(read_only, table["item"]) == drawn(read_only, item)
    else:  # other frames, the same reasons
        assert table["item"]["totals"] == item["totals"]
        assert table["item"]["first"]["ledger"] == item["first"]["ledger"]
    assert (table["split"], table["label"], table["tested"]) == ("test", label, frame == "sufficient")
    assert len(table["cells"]) == table["grid"][0] * table["grid"][1]


def drawn(served: Served, table: object) -> object:
    """As JSON brings it, where tuples are lists, and with the pictures in the place of their addresses."""
    if isinstance(table, dict):
        return {key: drawn(served, value) for key, value in table.items()}
    if isinstance(table, str) and table.startswith(f"/{TOKEN}/"):
        reply = served.send("GET", table)
        assert reply.status == 200
        return reply.body
    return [drawn(served, value) for value in table] if isinstance(table, list | tuple) else table


@pytest.mark.parametrize("orientation", STORED_AS)
def test_a_turned_photograph_gets_the_answer_of_the_upright_one(read_only: Served, orientation: int) -> None:
    upright = photo(48, 40)
    how = STORED_AS[orientation]
    stored = upright if how is None else upright.transpose(how)
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    for kind in ("PNG", "WEBP"):
        lossless = {"lossless": True} if kind == "WEBP" else {}
        turned = file_of(stored, kind, exif=tags, **lossless)
        assert totals(read_only, turned) == totals(read_only, file_of(upright, kind, **lossless))


def test_a_turned_jpeg_gets_the_answer_of_the_upright_one(read_only: Served) -> None:
    """Blocks of eight whole pixels of one colour: the file loses nothing that a turn could change."""
    blocks = np.random.default_rng(0).integers(0, 2, (5, 4), dtype=np.uint8) * 255
    upright = Image.fromarray(np.kron(blocks, np.ones((16, 16), dtype=np.uint8)))
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    turned = file_of(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=100, exif=tags)
    assert totals(read_only, turned) == totals(read_only, file_of(upright, "JPEG", quality=100))
    assert totals(read_only, turned) != totals(
        read_only, file_of(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=100)
    )


def test_files_without_loss_get_one_answer(read_only: Served) -> None:
    wanted = totals(read_only, file_of(photo(), "PNG"))
    for kind in ("BMP", "TIFF", "PPM"):
        assert totals(read_only, file_of(photo(), kind)) == wanted
    assert totals(read_only, file_of(photo(), "WEBP", lossless=True)) == wanted


def test_grey_sixteen_bit_and_palette_files_are_read(read_only: Served) -> None:
    grey = photo().convert("L")
    wanted = totals(read_only, file_of(Image.merge("RGB", [grey] * 3), "PNG"))
    assert totals(read_only, file_of(grey, "PNG")) == wanted
    assert totals(read_only, file_of(grey, "GIF")) == wanted
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert answer_to(read_only, file_of(deep, "PNG"))["item"]["totals"][0][0] == wanted[0][0]
    assert totals(read_only, file_of(photo().convert("CMYK"), "TIFF"))
    assert totals(read_only, file_of(photo().convert("CMYK"), "JPEG"))
    assert totals(read_only, file_of(photo().convert("RGBA"), "PNG")) == totals(read_only, file_of(photo(), "PNG"))


def test_an_animation_is_its_first_picture(read_only: Served) -> None:
    first = photo().quantize(64)
    moving = file_of(first, "GIF", save_all=True, append_images=[Image.new("P", first.size, 3)])
    assert totals(read_only, moving) == totals(read_only, file_of(first, "GIF"))


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, all black: a thousandth of them in bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = zlib.compressobj(9)
    data = b"".join(lines.compress(bytes(1 + width // 8) * 1000) for _ in range(height // 1000)) + lines.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


PNG = file_of(photo(), "PNG")
NO_IMAGES = {
    "empty": b"",
    "text": b"hello, I am no image",
    "markup": b"<svg xmlns='http://www.w3.org/2000/svg'/><script>alert(1)</script>",
    "zeros": bytes(1000),
    "cut in the head": PNG[:20],
    "cut in the middle": file_of(photo(200, 200), "JPEG")[:2000],
    "cut PNG": PNG[: len(PNG) // 2],
    "wrong checksum": PNG[:40] + b"\xff" + PNG[41:],
    "PDF": b"%PDF-1.7\n1 0 obj",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "too many pixels": bomb(40_000, 40_000),
}


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_what_is_no_photograph_is_refused_in_a_sentence(read_only: Served, kind: str) -> None:
    reply = ask(read_only, NO_IMAGES[kind], "x.png")
    assert reply.status == 400
    assert reply.error.startswith("image: must be a readable photograph; got x.png (")


def test_a_bomb_takes_no_memory(read_only: Served) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        assert "max_image_pixels" in ask(read_only, NO_IMAGES["too many pixels"]).error
    # One of them would be 200 MB with one bit a pixel, and 4.8 GB as RGB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_a_file_with_too_many_bytes_is_refused_and_not_kept(read_only: Served) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    block = bytes(2**20)
    count = server.MOST_BYTES // len(block) + 64

    def blocks() -> Iterator[bytes]:
        for _ in range(count):
            yield block

    reply = send_parts(read_only, "ask", blocks(), {"Content-Length": str(count * len(block))})
    assert reply.status == 413
    assert reply.error == "What is sent must have at most 64 MB. Send a smaller file or a shorter text."
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert held * 1024 < server.MOST_BYTES + 2**25
    assert ask(read_only, PNG).status == 200


def send_parts(served: Served, path: str, parts: Iterator[bytes], headers: dict[str, str]) -> Reply:
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)) as connection:
        is_chunked = "Transfer-Encoding" in headers
        connection.request("POST", f"/{TOKEN}/0/{path}", parts, headers, encode_chunked=is_chunked)
        answer = connection.getresponse()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def test_parts_without_a_length_are_counted(read_only: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_BYTES", 2**20)
    reply = send_parts(read_only, "ask", iter([bytes(2**18)] * 5), {"Transfer-Encoding": "chunked"})
    assert (reply.status, reply.error) == (
        413,
        "What is sent must have at most 1 MB. Send a smaller file or a shorter text.",
    )
    assert send_parts(read_only, "ask", iter([PNG[:99], PNG[99:]]), {"Transfer-Encoding": "chunked"}).status == 200


def test_the_refusal_comes_before_the_end(read_only: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_BYTES", 2**16)
    head = f"POST /{TOKEN}/0/ask HTTP/1.1\r\nHost: 127.0.0.1:{read_only.port}\r\nContent-Length: {2**30}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", read_only.port), timeout=PATIENCE) as connection:
        connection.sendall(head.encode() + bytes(2**17))
        assert connection.recv(12) == b"HTTP/1.1 413"
        connection.sendall(bytes(2**22))  # what a browser has still on its way is dropped


def test_a_sender_that_breaks_off_leaves_nothing(read_only: Served) -> None:
    head = f"POST /{TOKEN}/0/ask HTTP/1.1\r\nHost: 127.0.0.1:{read_only.port}\r\nContent-Length: 1000\r\n\r\n".encode()
    assert read_only.raw(head + bytes(10), ends=True) == b""
    assert read_only.get("state").status == 200


@pytest.mark.parametrize("path", ["edits", "window", "save"])
def test_other_requests_are_short(read_only: Served, path: str) -> None:
    reply = read_only.post(path, b'{"a": "' + b"a" * server.MOST_JSON + b'"}')
    assert reply.status == 413
    assert reply.error == "What is sent must have at most 64 kB. Send a smaller file or a shorter text."


NAMES = {
    "<b>bold</b><script>alert(1)</script>.png": "<b>bold<_b><script>alert(1)<_script>.png",
    "../../etc/passwd": ".._.._etc_passwd",
    "C:\\photos\\a.png": "C:_photos_a.png",
    "a\nb\tc\r\n.png": "a b c .png",
    "\x1b[31mred\x00.png": "\\x1b[31mred\\x00.png".replace("\\", "_"),
    "   ": "image",
    "": "image",
    "..": "..",
    "‮gnp.exe": "‮gnp.exe",
    "é" * 10_000: "é" * 200,
    "🦤.png": "🦤.png",
}


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_is_only_a_name(read_only: Served, name: str) -> None:
    assert answer_to(read_only, PNG, name)["item"]["name"] == NAMES[name]
    reply = ask(read_only, b"nothing", name)
    assert reply.status == 400
    assert reply.error.startswith(f"image: must be a readable photograph; got {NAMES[name]} (")


def test_bytes_that_are_no_text_are_a_name_too(read_only: Served) -> None:
    for name in (b"\xed\xa0\x80.png", b"\xff\xfe", b"%"):
        reply = read_only.send("POST", f"/{TOKEN}/0/ask?name={quote_from_bytes(name)}", PNG)
        assert reply.status == 200
    assert read_only.send("POST", f"/{TOKEN}/0/ask?name=%zz&name=2&x", PNG).status == 200


def test_a_sent_image_can_be_asked_about_again(read_only: Served) -> None:
    first = answer_to(read_only, PNG)
    assert first["ref"].startswith("sent/")
    again = read_only.get(f"explain?image={first['ref']}").json
    assert drawn(read_only, again["item"]) == drawn(read_only, first["item"])
    near = read_only.post("window", {"image": first["ref"], "window": [0, 0, 1, 1]})
    assert near.status == 200
    assert len(near.json["rows"]) == 8


def test_the_newest_images_are_kept(read_only: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from protokern.app import room

    monkeypatch.setattr(room, "MOST_UPLOADS", 2)
    references = [answer_to(read_only, PNG)["ref"] for _ in range(3)]
    assert [read_only.get(f"explain?image={one}").status for one in references] == [400, 200, 200]
    assert read_only.get(f"explain?image={references[0]}").error == (
        "The image is no longer there, because many were sent since. Send it again."
    )


def test_heat_maps_of_old_answers_are_forgotten(read_only: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no part of the data: many questions would fill the memory."""
    from protokern.app import pictures

    def heat_maps() -> list[str]:
        return [match["here_heat"] for match in answer_to(read_only, PNG)["item"]["first"]["reasons"]]

    monkeypatch.setattr(pictures, "MOST_MADE", 7 * SIZE**2 * 20)
    first, *_, last = (heat_maps() for _ in range(12))
    assert {read_only.send("GET", one).status for one in last} == {200}
    assert {read_only.send("GET", one).status for one in first} == {404}
    assert not {*first} & {*last}  # a browser keeps what an address has shown
