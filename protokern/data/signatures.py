"""What a file is by its first bytes, whatever its name, to explain why it is not a photograph."""

from __future__ import annotations

from collections.abc import Collection

HEAD_BYTES = 1024

# Formats that the package reads; a file that begins like one and cannot be opened is damaged.
_READ = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_CONVERT = "convert it to JPEG or PNG"
_UNPACK = "an archive; unpack it"
# (place, bytes there, name, what to do). The first that fits counts.
_OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\xff\x0a", "JPEG XL", _CONVERT),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", _CONVERT),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", _CONVERT),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", _CONVERT),
    (0, b"II\xbc\x01", "JPEG XR", _CONVERT),
    (0, b"8BPS", "PSD (Photoshop)", _CONVERT),
    (0, b"gimp xcf", "XCF (GIMP)", _CONVERT),
    (8, b"CR\x02\0", "a RAW photograph (CR2)", _CONVERT),
    (0, b"FUJIFILMCCD-RAW", "a RAW photograph (RAF)", _CONVERT),
    (0, b"IIRO", "a RAW photograph (ORF)", _CONVERT),
    (0, b"IIRS", "a RAW photograph (ORF)", _CONVERT),
    (0, b"MMOR", "a RAW photograph (ORF)", _CONVERT),
    (0, b"IIU\0", "a RAW photograph (RW2)", _CONVERT),
    (0, b"\0MRM", "a RAW photograph (MRW)", _CONVERT),
    (0, b"FOVb", "a RAW photograph (X3F)", _CONVERT),
    (0, b"\x76\x2f\x31\x01", "OpenEXR", _CONVERT),
    (0, b"#?RADIANCE", "Radiance HDR", _CONVERT),
    (0, b"qoif", "QOI", _CONVERT),
    (0, b"DDS ", "DDS", _CONVERT),
    (0, b"icns", "ICNS (an icon)", _CONVERT),
    (0, b"\0\0\1\0", "ICO (an icon)", _CONVERT),
    (128, b"DICM", "DICOM", _CONVERT),
    (0, b"SIMPLE  =", "FITS", _CONVERT),
    (0, b"\x93NUMPY", "a NumPy array", _CONVERT),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5", _CONVERT),
    (0, b"%PDF", "PDF", _CONVERT),
    (0, b"%!PS", "PostScript", _CONVERT),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript", _CONVERT),
    (0, b"\xd7\xcd\xc6\x9a", "WMF", _CONVERT),
    (0, b"\0\5\x16\7", "metadata of macOS (AppleDouble)", "remove it"),
    (0, b"PK\3\4", "ZIP", _UNPACK),
    (0, b"PK\5\6", "ZIP", _UNPACK),
    (0, b"\x1f\x8b", "gzip", _UNPACK),
    (0, b"BZh", "bzip2", _UNPACK),
    (0, b"\xfd7zXZ\0", "xz", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip", _UNPACK),
    (0, b"Rar!\x1a\7", "RAR", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard", _UNPACK),
    (257, b"ustar", "tar", _UNPACK),
    (0, b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)", "take pictures from it"),
    (0, b"\0\0\1\xba", "a video (MPEG)", "take pictures from it"),
    (0, b"\0\0\1\xb3", "a video (MPEG)", "take pictures from it"),
    (0, b"FLV\1", "a video (FLV)", "take pictures from it"),
    (0, b"OggS", "sound or video (Ogg)", "remove it"),
    (0, b"ID3", "sound (MP3)", "remove it"),
    (0, b"version https://git-lfs.github.com/", "a pointer of Git LFS", "fetch the file with 'git lfs pull'"),
)
# Major brands of the ISO base media format, of which HEIC, AVIF and MP4 are kinds.
_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1", b"heif")
_AVIF = (b"avif", b"avis")
_RIFF = {b"AVI ": "a video (AVI)", b"WAVE": "sound (WAV)"}
RAW_SUFFIXES = (".dng", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".pef", ".srw", ".3fr", ".iiq", ".erf", ".kdc", ".dcr")


def is_heic(head: bytes) -> bool:
    """Whether a file with these first bytes is HEIC or HEIF."""
    return _brand(head) == "HEIC"


def describe_content(head: bytes, size: int, readable: Collection[str] = ()) -> str:
    """Why a file that no reader accepts is not an image: what it is instead, and what to do if known.

    Args:
        head: its first bytes, `HEAD_BYTES` of them or all.
        size: of the whole file, bytes, > 0.
        readable: which of HEIC and AVIF can be read here, so that such a file must be damaged.
    """
    brand = _brand(head)
    if brand in readable:
        return f"{brand}, truncated or damaged: {size} bytes"
    if brand == "HEIC":
        return "HEIC: convert it to JPEG, or install pillow-heif"
    if brand == "AVIF":
        return "AVIF: convert it to JPEG, or install a Pillow that reads AVIF"
    if brand is not None:
        return f"not an image: {brand}; take pictures from it" if "video" in brand else f"{brand}: {_CONVERT}"
    for place, signature, name, remedy in _OTHERS:
        if head[place : place + len(signature)] == signature:
            return f"{name}: {remedy}" if remedy == _CONVERT else f"not an image: {name}, {remedy}"
    known = _name_of_readable(head)
    if known is not None:
        return f"{known}, truncated or damaged: {size} bytes"
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return f"not an image: {_RIFF[head[8:12]]}"
    if not head.strip(b"\0"):
        return "not an image: all bytes are zero, as of a download that failed"
    return _describe_text(head)


def _brand(head: bytes) -> str | None:
    if head[4:8] != b"ftyp":
        return None
    length = min(int.from_bytes(head[:4]), len(head))
    brands = [head[8:12], *(head[place : place + 4] for place in range(16, length, 4))]
    # Both may name mif1; the more specific brand decides.
    if any(brand in _AVIF for brand in brands):
        return "AVIF"
    if any(brand in _HEIC for brand in brands):
        return "HEIC"
    if brands[0] == b"crx ":
        return "a RAW photograph (CR3)"
    return "a video (MP4 or QuickTime)"


def _name_of_readable(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM":
        return "BMP"
    return next((name for signature, name in _READ.items() if head.startswith(signature)), None)


def _describe_text(head: bytes) -> str:
    """The description of text, or of unknown content."""
    try:
        # A character may be cut at the end of the head.
        text = head.decode("utf-8", errors="strict" if len(head) < HEAD_BYTES else "ignore").lstrip("\ufeff \t\r\n")
    except UnicodeDecodeError:
        return "not an image"
    if any(not letter.isprintable() and letter not in "\t\r\n\f" for letter in text):
        return "not an image"
    start = text[:HEAD_BYTES].lower()
    if "<svg" in start:
        return f"SVG: {_CONVERT}"
    if start.startswith(("<!doctype html", "<html")) or "<html" in start:
        return "not an image: a page of HTML, perhaps an error of a download; download it again"
    if "/annex/objects/" in start:
        return "not an image: a pointer of git-annex, fetch the file with 'git annex get'"
    kind = "XML" if start.startswith("<?xml") else "JSON" if start.startswith(("{", "[")) else "text"
    return f"not an image: {kind}"
