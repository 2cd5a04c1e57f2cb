"""What a file is, by its name and its first bytes: a photo that can be read, one that cannot, or none.

`locate.images.reading` reads photos; here is what it cannot read but people keep among their
photos, so that nothing of it is passed over in silence.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePath

HEAD = 32  # bytes of a file that `format_of` needs


def endings(names: str) -> frozenset[str]:
    """ "jpg png" -> ".jpg", ".png"."""
    return frozenset(f".{name}" for name in names.split())


RAW = endings(
    "dng cr2 cr3 crw nef nrw arw sr2 srf arq orf ori rw2 rwl raw raf pef ptx srw dcr kdc k25 3fr fff iiq"
    " mef mos mrw x3f erf gpr dcs drf eip"
)
VIDEO = endings("mp4 mov m4v avi mkv webm wmv mpg mpeg mts m2ts 3gp insv lrv 360")
# Pictures that no decoder here reads; of those whose endings mean other things too the head decides.
UNREAD = endings("jxl svg svgz psd psb exr xcf kra ai eps jxr wdp hdp djvu")
# Not worth opening: never photos, or ones that are only kept beside a photo (exiftool's backups, a
# camera's thumbnails of its videos).
_NONE = endings(
    "txt md rst csv tsv json jsonl geojson xml xmp yaml yml toml ini cfg html htm css js py sh log db"
    " sqlite sqlite-wal sqlite-shm npy npz pt pth safetensors pkl h5 zip tar gz bz2 xz 7z rar pdf"
    " parquet doc docx xls xlsx ppt pptx odt gpx kml kmz nmea mp3 m4a wav flac ogg aae thm thumb pp3 dop"
    " lrcat cos md5 sha256 exe dll so lnk url ply obj mtl glb las laz"
)
HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"mif1", b"msf1"})
AVIF_BRANDS = frozenset({b"avif", b"avis"})
PNG = b"\x89PNG\r\n\x1a\n"
RAW_FORMAT, JXL = "raw", "JPEG XL"
_BRANDS = {
    b"crx ": RAW_FORMAT,  # Canon's CR3
    **dict.fromkeys(HEIF_BRANDS, "HEIC"),
    **dict.fromkeys(AVIF_BRANDS, "AVIF"),
}
_HEADS = (  # how files begin
    (b"\xff\xd8\xff", "JPEG"),
    (PNG, "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", JXL),
    (b"\0\0\0\x0cJXL ", JXL),
    *((b, RAW_FORMAT) for b in (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")),
    (b"FOVb", RAW_FORMAT),
    (b"\0MRM", RAW_FORMAT),
    (b"8BPS", "Photoshop"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
)
READ = {"JPEG", "PNG", "GIF", "TIFF", "JPEG 2000", "WebP", "HEIC", "AVIF", "BMP", "netpbm"}


@dataclass(frozen=True)
class FileKind:
    """Why files are passed over; its name is "raw", "picture", "video" or "unnamed" (a photo that can
    be read, under a name that does not say so)."""

    name: str
    reason: str
    cure: str


RAW_KIND = FileKind(
    "raw",
    "raw photos are not read",
    "convert them to JPEG or TIFF, as with darktable, dcraw or the maker's program",
)
JXL_KIND = FileKind("picture", "JPEG XL is not read", "convert them to JPEG: djxl IN.jxl OUT.jpg")
PICTURE_KIND = FileKind(
    "picture", "this format is not read", "convert them to JPEG or PNG: magick IN OUT.jpg"
)
VIDEO_KIND = FileKind(
    "video", "videos are not read", "take photos from them: ffmpeg -i IN -vf fps=1 %05d.jpg"
)


def format_of(head: bytes) -> str | None:
    """The name of a picture's format by the first `HEAD` bytes of its file: one of `READ`, "raw",
    "JPEG XL", ...; "video"; None for anything else."""
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video")
    if head[:4] == b"RIFF":
        return {b"WEBP": "WebP", b"AVI ": "video"}.get(head[8:12])
    # Canon's CRW and CR2, the second of which is a TIFF.
    if re.match(rb"II....HEAPCCDR|II\*\0....CR", head, re.DOTALL):
        return RAW_FORMAT
    # Two letters prove nothing: the length of BMP's second header does.
    second = int.from_bytes(head[14:18], "little") if len(head) >= 18 else 0
    if head[:2] == b"BM" and second in (12, 40, 52, 56, 108, 124):
        return "BMP"
    if re.match(rb"P[1-6]\s+(#|\d)", head):
        return "netpbm"
    return next((name for start, name in _HEADS if head.startswith(start)), None)


def kind_of(file: Path) -> FileKind | None:
    """The kind of a file whose name is not that of a photo; None if it is no picture, or cannot be
    opened. Endings that are known are believed; of others the first bytes are read."""
    ending = PurePath(file.name).suffix.lower()
    if ending in _NONE or ending.endswith(("_original", "~")):
        return None
    for endings, kind in ((RAW, RAW_KIND), (VIDEO, VIDEO_KIND), (UNREAD, PICTURE_KIND)):
        if ending in endings:
            return JXL_KIND if ending == ".jxl" else kind
    found = format_of(head_of(file))
    if found in READ:
        return FileKind(
            "unnamed",
            f"nothing in the name says that this is a photo ({found} by its first bytes)",
            f"rename to {_ENDING.get(found, '.' + found.lower())}, or name the file itself",
        )
    return _BY_FORMAT.get(found, PICTURE_KIND) if found else None


_BY_FORMAT = {RAW_FORMAT: RAW_KIND, "video": VIDEO_KIND, JXL: JXL_KIND}
_ENDING = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG 2000": ".jp2", "netpbm": ".ppm"}


def head_of(file: Path) -> bytes:
    """The first `HEAD` bytes of a plain file; nothing of what is none or cannot be read. Never waits."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # opening a device may already do something
            return b""
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError):
        return b""
    try:
        return os.read(handle, HEAD)
    except OSError:
        return b""
    finally:
        os.close(handle)
