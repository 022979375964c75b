"""Stores from elsewhere, cut off, and with flipped bits: refused by name, never read wrong, never changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protokern.errors import DataError
from protokern.features import FeatureStore, FeatureWriter, Fingerprint, layout

PRINT = Fingerprint(weights="w", transform="t", files="f")
IMAGES = 70
FILES = ("store.json", "chunks.bin", "features.bin")


def features_of(images: int = IMAGES) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(images, 2, 3, 3, generator=generator), torch.arange(images) % 5


def write(path: Path, *, is_complete: bool = True, fingerprint: Fingerprint = PRINT) -> None:
    features, labels = features_of()
    with FeatureWriter(path, fingerprint, images=IMAGES) as writer:
        for images in writer.missing()[: None if is_complete else 1]:
            writer.append(features[images], labels[images])


def contents(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole")
    write(path)
    return path


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half")
    write(path, is_complete=False)
    return path


def refuse(path: Path) -> str:
    """Neither a reader nor a writer takes it, nothing changes; the reader's one line."""
    before = contents(path)
    with pytest.raises(DataError) as read:
        FeatureStore.open(path, fingerprint=PRINT)
    with pytest.raises(DataError) as written, FeatureWriter(path, PRINT, images=IMAGES):
        pass
    for caught in (read, written):
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert contents(path) == before
    return str(read.value)


anywhere = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@anywhere
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found(whole, name, place, bit) -> None:
    file = whole / name
    before = file.read_bytes()
    changed = bytearray(before)
    changed[int(place * len(before))] ^= 1 << bit
    file.write_bytes(changed)
    try:
        refuse(whole)
    finally:
        file.write_bytes(before)


@anywhere
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_off_is_found(whole, name, place) -> None:
    file = whole / name
    before = file.read_bytes()
    file.write_bytes(before[: int(place * len(before))])
    try:
        refuse(whole)
    finally:
        file.write_bytes(before)


@anywhere
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_store_that_is_not_complete_stops_its_writer(half, place, bit) -> None:
    file = half / "features.bin"
    before = file.read_bytes()
    changed = bytearray(before)
    changed[int(place * len(before))] ^= 1 << bit
    file.write_bytes(changed)
    try:
        with pytest.raises(DataError, match=r"is damaged at images 0 to 63"), FeatureWriter(half, PRINT, images=IMAGES):
            pass
        assert file.read_bytes() == changed
    finally:
        file.write_bytes(before)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@anywhere
@given(
    key=st.sampled_from(["images", "shape", "precision", "fingerprint", "chunk_images", "is_complete", "format", "x"]),
    value=json_values | st.sampled_from([10**30, -1, [2**40, 2**40, 2**40], [1, 3], "protokern-features-2"]),
)
def test_a_header_that_lies_with_a_right_checksum_is_refused_or_the_same(whole, key, value) -> None:
    file = whole / "store.json"
    before = file.read_bytes()
    table = json.loads(before)
    del table["checksum"]
    changed = {**table, key: value}
    if changed == table or key == "x":
        return
    checksum = zlib.crc32(json.dumps(changed, sort_keys=True).encode())
    file.write_text(json.dumps({**changed, "checksum": checksum}))
    try:
        with pytest.raises(DataError, match=str(whole)):
            FeatureStore.open(whole, fingerprint=PRINT)
        with pytest.raises(DataError, match=str(whole)), FeatureWriter(whole, PRINT, images=IMAGES):
            pass
    finally:
        file.write_bytes(before)


@anywhere
@given(
    content=st.binary(max_size=200) | st.just(b"[" * 5000) | json_values.map(lambda value: json.dumps(value).encode())
)
def test_any_header_is_refused_in_one_line(whole, content) -> None:
    file = whole / "store.json"
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        refuse(whole)
    finally:
        file.write_bytes(before)


def test_a_newer_format_and_a_header_without_end_are_named(whole) -> None:
    file = whole / "store.json"
    before = file.read_bytes()
    try:
        file.write_bytes(before.replace(b"features-2", b"features-3"))
        assert "is of format protokern-features-3; this version reads up to protokern-features-2" in refuse(whole)
        file.write_bytes(before + b" " * 2**16)
        assert "must have at most 65536 bytes" in refuse(whole)
    finally:
        file.write_bytes(before)


def test_features_of_another_store_are_found(whole, tmp_path) -> None:
    features, labels = features_of()
    with FeatureWriter(tmp_path, PRINT, images=IMAGES) as writer:
        for images in writer.missing():
            writer.append(1 - features[images], labels[images])
    (tmp_path / "features.bin").write_bytes((whole / "features.bin").read_bytes())
    assert "is damaged at images 0 to 63; the checksum differs" in refuse(tmp_path)


READ_ALL = """
import resource, sys
from protokern.features import FeatureStore, store as reading
import torch
reading._MOST_MAPPED = 2**20
torch.set_num_threads(1)
store = FeatureStore.open(sys.argv[1])
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
next(iter(store.batches(4)))
before, most = resident(), 0
for features, _ in store.batches(4):
    most = max(most, resident() - before)
for features, _, _ in store.batches_at([[i, (i * 7) % 40] for i in range(40)]):
    most = max(most, resident() - before)
print(most)
"""


def test_reading_takes_no_more_memory_for_larger_stores(tmp_path) -> None:
    """A store of 21 MB, of which 1 MiB may be mapped here, and two batches of 2 MB be at hand."""
    with FeatureWriter(tmp_path, PRINT, images=40) as writer:
        writer.append(torch.full((40, 128, 32, 32), 0.5), torch.zeros(40, dtype=torch.int64))
    answer = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
    )
    assert int(answer.stdout) < 12e6


def test_nothing_is_written_through_a_link(half, tmp_path) -> None:
    """A store of a stranger, or in the run folder of one, must not make a writer change what is elsewhere."""
    for name in ("features.bin", "chunks.bin"):
        store, outside = tmp_path / name, tmp_path / f"outside-{name}"
        shutil.copytree(half, store)
        outside.write_bytes((store / name).read_bytes())
        before = outside.read_bytes()
        (store / name).unlink()
        (store / name).symlink_to(outside)
        features, labels = features_of()
        with FeatureWriter(store, PRINT, images=IMAGES) as writer, pytest.raises(DataError, match=str(store)):
            writer.append(features[64:], labels[64:])
        assert outside.read_bytes() == before
    store = tmp_path / "lock"
    store.mkdir()
    (store / "lock").symlink_to(tmp_path / "new")
    with pytest.raises(DataError, match=str(store)), FeatureWriter(store, PRINT, images=IMAGES):
        pass
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_plain_one_is_refused_and_not_waited_for(whole, tmp_path, name) -> None:
    store = Path(shutil.copytree(whole, tmp_path / "store"))
    (store / name).unlink()
    os.mkfifo(store / name)
    with pytest.raises(DataError, match=rf"{name}: must be a plain file"):
        FeatureStore.open(store)


def test_a_chunk_is_read_in_pieces(whole, tmp_path) -> None:
    """So that a header that lies about the size of a chunk takes no memory."""
    header = layout.read_layout(whole)
    assert header is not None
    records = layout.read_records(whole, header)
    layout.check_features(whole, header, records, piece_bytes=100)
    store = Path(shutil.copytree(whole, tmp_path / "store"))
    content = bytearray((store / "features.bin").read_bytes())
    content[-150] ^= 1
    (store / "features.bin").write_bytes(content)
    with pytest.raises(DataError, match="is damaged at images 64 to 69"):
        layout.check_features(store, header, records, piece_bytes=100)


def test_labels_of_more_images_than_anybody_has_are_not_read(tmp_path) -> None:
    """Two files of zeros that take no space on the disk would ask for 64 GB of labels."""
    images, chunk_images = 2**34, 2**16
    table = {
        "format": "protokern-features-1",
        "images": images,
        "shape": [1, 1, 1],
        "precision": "fp32",
        "fingerprint": {"weights": "w", "transform": "t", "files": "f"},
        "chunk_images": chunk_images,
        "is_complete": True,
    }
    checksum = zlib.crc32(json.dumps(table, sort_keys=True).encode())
    (tmp_path / "store.json").write_text(json.dumps({**table, "checksum": checksum}))
    for name, size in (("chunks.bin", images // chunk_images * 4 * (chunk_images + 2)), ("features.bin", images * 4)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    with pytest.raises(DataError, match=r"store.json: must have sizes of a feature store"):
        FeatureStore.open(tmp_path)


def test_processes_that_open_a_store_together_check_a_part_each(tmp_path) -> None:
    write(tmp_path)  # a chunk of 64 images and one of 6
    file = tmp_path / "features.bin"
    for chunk, place in enumerate((5, file.stat().st_size - 5)):
        before = file.read_bytes()
        file.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
        other = FeatureStore.open(tmp_path, fingerprint=PRINT, checked_part=(1 - chunk, 2))
        assert len(other) == IMAGES
        for part in ((chunk, 2), (0, 1)):
            with pytest.raises(DataError, match=f"is damaged at images {64 * chunk} to "):
                FeatureStore.open(tmp_path, fingerprint=PRINT, checked_part=part)
        file.write_bytes(before)
    for number in range(5):  # more processes than chunks
        FeatureStore.open(tmp_path, checked_part=(number, 5))
    file.write_bytes(before[:-1])
    with pytest.raises(DataError, match="must have"):
        FeatureStore.open(tmp_path, checked_part=(0, 5))
