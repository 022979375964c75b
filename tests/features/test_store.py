from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
import torch

from protokern.errors import DataError
from protokern.features import FeatureStore, FeatureWriter, Fingerprint
from protokern.features.layout import CHUNK_IMAGES

PRINT = Fingerprint(weights="w", transform="16 x 16 pixels", files="f")
IMAGES = 2 * CHUNK_IMAGES + 5
SHAPE = (3, 2, 4)


def maps(images: int = IMAGES) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(images, *SHAPE, generator=generator), torch.arange(images) % 7


def write(path: Path, *, images: int = IMAGES, chunks: int | None = None, precision: str = "fp32") -> None:
    features, labels = maps(images)
    with FeatureWriter(path, PRINT, images=images, precision=precision) as writer:
        while writer.done < images and (chunks is None or chunks > 0):
            chosen = slice(writer.done, writer.done + writer.next_images)
            writer.append(features[chosen], labels[chosen])
            chunks = None if chunks is None else chunks - 1


def contents(path: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in sorted(path.iterdir())}


@pytest.mark.parametrize("images", [1, CHUNK_IMAGES, IMAGES])
def test_what_was_written_is_read(tmp_path, images) -> None:
    write(tmp_path / "store", images=images)
    store = FeatureStore.open(tmp_path / "store", fingerprint=PRINT, precision="fp32")
    features, labels = maps(images)
    assert len(store) == images
    assert store.shape == SHAPE
    assert torch.equal(store.labels, labels)
    read, read_labels = (torch.cat(parts) for parts in zip(*store.batches(10), strict=True))
    assert torch.equal(read, features)
    assert torch.equal(read_labels, labels)


def test_batches_are_float32_channels_last_and_copies(tmp_path) -> None:
    write(tmp_path, precision="bf16")
    store = FeatureStore.open(tmp_path)
    features, _ = maps()
    index = [5, 130, 5, 64]
    batch = store.read(index)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, features[index].bfloat16().float())
    assert store.read([]).shape == (0, *SHAPE)
    batch.zero_()
    assert torch.equal(store.read(index), features[index].bfloat16().float())


def test_neighbours_are_read_together_and_a_short_read_is_continued(tmp_path, monkeypatch) -> None:
    write(tmp_path)
    store, calls, preadv = FeatureStore.open(tmp_path), [], os.preadv

    def short(file: int, buffers: list[memoryview], offset: int) -> int:
        calls.append((offset // 96, len(buffers[0])))  # an image has 96 bytes
        return preadv(file, [buffers[0][:200]], offset)

    monkeypatch.setattr(os, "preadv", short)
    index = [7, 8, 9, 3, 3, 2, 0]
    assert torch.equal(store.read(index), maps()[0][index])
    assert calls == [(7, 288), (9, 88), (3, 96), (3, 96), (2, 96), (0, 96)]


def test_a_store_that_became_shorter_is_named(tmp_path) -> None:
    write(tmp_path)
    store = FeatureStore.open(tmp_path)
    os.truncate(tmp_path / "features.bin", 96 * 100)
    assert torch.equal(store.read([99]), maps()[0][99:100])
    with pytest.raises(DataError, match=r"features\.bin: has become shorter since it was opened\. Remove"):
        store.read([99, 100])


def test_batches_at_lists_of_images_and_by_class(tmp_path) -> None:
    write(tmp_path)
    store = FeatureStore.open(tmp_path)
    features, labels = maps()
    for batch, batch_labels, index in store.batches_at([[9, 3], [132]]):
        assert torch.equal(batch, features[index])
        assert torch.equal(batch_labels, labels[index])
    batches = list(store.batches_by_class(8))
    assert all(len(batch_labels.unique()) == 1 for _, batch_labels, _ in batches)
    assert max(len(index) for _, _, index in batches) == 8
    order = torch.cat([index for _, _, index in batches])
    assert torch.equal(order, labels.argsort(stable=True))
    assert torch.equal(torch.cat([batch for batch, _, _ in batches]), features[order])


@pytest.mark.parametrize("name", ["weights", "transform", "files"])
def test_a_stale_store_is_refused_in_one_line_that_says_what_differs(tmp_path, name) -> None:
    write(tmp_path)
    before = contents(tmp_path)
    words = {"weights": "weights of the backbone", "transform": "transform (16 x 16 pixels; wanted", "files": "files"}
    wanted = Fingerprint(**{"weights": "w", "transform": "16 x 16 pixels", "files": "f", name: "x"})
    with pytest.raises(DataError) as opened:
        FeatureStore.open(tmp_path, fingerprint=wanted)
    with pytest.raises(DataError) as written, FeatureWriter(tmp_path, wanted, images=IMAGES):
        pass
    for caught in (opened, written):
        message = str(caught.value)
        assert message.startswith(f"{tmp_path}: is stale: made of other") or name == "transform"
        assert words[name] in message
        assert sum(text in message for text in words.values()) == 1
        assert "\n" not in message
    assert contents(tmp_path) == before


def test_another_precision_or_number_of_images_is_refused(tmp_path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match="must hold features in bf16; it holds them in fp32"):
        FeatureStore.open(tmp_path, precision="bf16")
    with (
        pytest.raises(DataError, match=f"must be of 3 images; it is of {IMAGES}"),
        FeatureWriter(tmp_path, PRINT, images=3),
    ):
        pass


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_a_writer_goes_on_where_the_last_one_stopped(tmp_path, chunks) -> None:
    write(tmp_path / "whole")
    write(tmp_path / "store", chunks=chunks)
    if chunks:
        with pytest.raises(DataError, match="must be a complete feature store; its writer was stopped"):
            FeatureStore.open(tmp_path / "store")
    with FeatureWriter(tmp_path / "store", PRINT, images=IMAGES) as writer:
        assert writer.done == chunks * CHUNK_IMAGES
    write(tmp_path / "store")
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


@pytest.mark.parametrize("cut", ["record", "features", "no record"])
def test_what_a_kill_left_of_a_chunk_is_written_again(tmp_path, cut) -> None:
    write(tmp_path / "whole")
    write(tmp_path / "store", chunks=2)
    records, features = tmp_path / "store" / "chunks.bin", tmp_path / "store" / "features.bin"
    if cut != "features":
        os.truncate(records, records.stat().st_size - (100 if cut == "record" else records.stat().st_size // 2))
    else:
        features.write_bytes(features.read_bytes() + b"begun")
    write(tmp_path / "store")
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_a_store_that_only_lacks_its_last_word_is_completed(tmp_path) -> None:
    write(tmp_path / "store", chunks=0)
    write(tmp_path / "store", chunks=2)
    unfinished = (tmp_path / "store" / "store.json").read_bytes()
    write(tmp_path / "store")
    whole = contents(tmp_path / "store")
    (tmp_path / "store" / "store.json").write_bytes(unfinished)
    write(tmp_path / "store")
    assert contents(tmp_path / "store") == whole


def test_a_folder_with_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(DataError, match=r"must be empty or a feature store; it holds thesis\.txt"),
        FeatureWriter(tmp_path, PRINT, images=3),
    ):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]
    with (
        pytest.raises(DataError, match=r"thesis\.txt: must be a folder; it is a file"),
        FeatureWriter(tmp_path / "thesis.txt", PRINT, images=3),
    ):
        pass
    with pytest.raises(DataError, match=r"must be a feature store; it has no store\.json"):
        FeatureStore.open(tmp_path)


def test_wrong_arguments_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="images: must be at least 1; got 0"):
        FeatureWriter(tmp_path, PRINT, images=0)
    with pytest.raises(ValueError, match="precision: must be one of fp32, bf16; got 'fp16'"):
        FeatureWriter(tmp_path, PRINT, images=1, precision="fp16")
    features, labels = maps()
    with FeatureWriter(tmp_path, PRINT, images=IMAGES) as writer:
        with pytest.raises(
            ValueError, match=r"features: must be \(B, C, H, W\) of the next 64 images; got \(3, 3, 2, 4\)"
        ):
            writer.append(features[:3], labels[:3])
        writer.append(features[:CHUNK_IMAGES], labels[:CHUNK_IMAGES])
        with pytest.raises(ValueError, match=r"features: must have the shape \(3, 2, 4\) of the images before"):
            writer.append(features[:CHUNK_IMAGES, :2], labels[:CHUNK_IMAGES])


def test_a_full_disk_is_one_line_and_the_writer_goes_on_later(tmp_path) -> None:
    write(tmp_path / "whole")
    write(tmp_path / "store", chunks=1)
    limit = (tmp_path / "store" / "features.bin").stat().st_size + 100
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(DataError, match=r"could not be written.* is whole\. Make room and go on, or give"):
            write(tmp_path / "store")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    write(tmp_path / "store")
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_a_second_writer_waits_for_the_first(tmp_path) -> None:
    waits = []

    def stop_waiting() -> None:
        waits.append(1)
        if len(waits) == 3:
            raise KeyboardInterrupt

    with FeatureWriter(tmp_path, PRINT, images=IMAGES):
        second = FeatureWriter(tmp_path, PRINT, images=IMAGES, wait=stop_waiting)
        with pytest.raises(KeyboardInterrupt), second:
            pass
    write(tmp_path)
    with FeatureWriter(tmp_path, PRINT, images=IMAGES) as third:
        assert third.next_images == 0


KILLED = """
import sys, time
sys.path.insert(0, {root!r})
from tests.features.test_store import maps, PRINT, IMAGES
from protokern.features import FeatureWriter
features, labels = maps()
with FeatureWriter({path!r}, PRINT, images=IMAGES) as writer:
    writer.append(features[:64], labels[:64])
    print("written", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_holds_no_lock_and_keeps_its_chunks(tmp_path) -> None:
    path, root = str(tmp_path / "store"), str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", KILLED.format(root=root, path=path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.kill()
    started = time.perf_counter()
    with FeatureWriter(path, PRINT, images=IMAGES) as writer:
        assert writer.done == CHUNK_IMAGES
    assert time.perf_counter() - started < 10


def test_a_writer_that_could_not_begin_begins_again(tmp_path, monkeypatch) -> None:
    features, labels = maps(3)
    with FeatureWriter(tmp_path, PRINT, images=3) as writer:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", refuse)
            with pytest.raises(DataError, match="could not be written"):
                writer.append(features, labels)
        writer.append(features, labels)
    assert len(FeatureStore.open(tmp_path)) == 3


def refuse(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(DataError, match=rf"{tmp_path}: .*No locks available"), FeatureWriter(tmp_path, PRINT, images=3):
        pass


@pytest.mark.parametrize(
    ("index", "got"),
    [([0, IMAGES], "133"), ([-1], "-1"), ([0.5], "torch.float32"), ([True], "torch.bool"), (3, "torch.int64")],
)
def test_only_images_of_the_store_are_read(tmp_path, index, got) -> None:
    write(tmp_path)
    store = FeatureStore.open(tmp_path)
    message = rf"index: must be a list of whole numbers of 0 .. {IMAGES - 1}; got .*{got}.* Count images from 0\."
    with pytest.raises(ValueError, match=message):
        store.read(index)
    with pytest.raises(ValueError, match=message):
        list(store.batches_at([[0], index]))


@pytest.mark.parametrize("batch_size", [0, -3])
def test_batches_hold_at_least_one_image(tmp_path, batch_size) -> None:
    write(tmp_path)
    store = FeatureStore.open(tmp_path)
    for batches in (store.batches, store.batches_by_class):
        with pytest.raises(
            ValueError, match=rf"batch_size: must be at least 1; got {batch_size}. Give the images of a"
        ):
            list(batches(batch_size))


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        (torch.arange(4) + 2**40, r"1099511627776 \.\. 1099511627779"),
        (torch.arange(4) - 1, r"-1 \.\. 2"),
        (torch.arange(4) / 2, r"torch.float32 of shape \(4,\)"),
        (torch.zeros(4, 1, dtype=torch.int64), r"torch.int64 of shape \(4, 1\)"),
    ],
    ids=["large", "negative", "kind", "shape"],
)
def test_labels_that_a_store_cannot_hold_are_refused(tmp_path, labels, got) -> None:
    with FeatureWriter(tmp_path / "store", PRINT, images=4) as writer:
        message = rf"labels: must be 4 class indices of 0 .. 2147483647; got {got}. Give one whole number an image."
        with pytest.raises(ValueError, match=message):
            writer.append(torch.rand(4, 2, 3, 3), labels)
        with pytest.raises(ValueError, match=r"features: must be \(B, C, H, W\) of the next 4 images"):
            writer.append(torch.rand(4, 0, 3, 3), torch.arange(4))
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == ["lock"]


def as_version_1(path: Path) -> None:
    """Rewrite the header as the first version of the format had it, which did not name the arithmetic."""
    table = json.loads((path / "store.json").read_text())
    table.pop("checksum")
    table["format"] = "protokern-features-1"
    table["fingerprint"].pop("arithmetic")
    table["checksum"] = zlib.crc32(json.dumps(table, sort_keys=True).encode())
    (path / "store.json").write_text(json.dumps(table, indent=1))


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_store_of_the_first_version_is_read_and_finished_in_its_own_arithmetic(tmp_path, chunks) -> None:
    maps, labels = torch.rand(70, 2, 3, 3), torch.arange(70) % 5
    with FeatureWriter(tmp_path, PRINT, images=70) as writer:
        for images in writer.missing()[:chunks]:
            writer.append(maps[images], labels[images])
    as_version_1(tmp_path)
    fused = Fingerprint(weights=PRINT.weights, transform=PRINT.transform, files=PRINT.files, arithmetic="fused")
    with FeatureWriter(tmp_path, fused, images=70) as writer:
        assert writer.arithmetic == "eager"
        assert writer.done == (64, 70)[chunks - 1]
        for images in writer.missing():
            writer.append(maps[images], labels[images])
    store = FeatureStore.open(tmp_path, fingerprint=fused)
    assert store.fingerprint.arithmetic == "eager"
    assert torch.equal(store.read(range(70)), maps)


def test_a_store_says_which_arithmetic_wrote_it(tmp_path) -> None:
    fused = Fingerprint(weights="w", transform="16 x 16 pixels", files="f", arithmetic="fused")
    with FeatureWriter(tmp_path, fused, images=3) as writer:
        writer.append(torch.rand(3, 2, 3, 3), torch.arange(3))
    assert json.loads((tmp_path / "store.json").read_text())["fingerprint"]["arithmetic"] == "fused"
    assert FeatureStore.open(tmp_path, fingerprint=PRINT).fingerprint == fused
    assert FeatureStore.is_of(tmp_path, PRINT)
