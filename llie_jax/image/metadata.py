"""What image files say beside their pixels: profile, EXIF, XMP, text, resolution.

`read` collects it from an opened file, `options` gives it to Pillow for another one.
"""

import dataclasses
import re
from collections.abc import Mapping

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

_XMP_CHUNK = "XML:com.adobe.xmp"

# Tags that describe the old file, not the photo: storage (TIFF lists it among the EXIF
# tags), the orientation already applied to the pixels, copies of other metadata.
_STALE_TAGS = (
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320),
    *(322, 323, 324, 325, 330, 338, 339, 347, 513, 514, 529, 530, 531, 532),
    *(700, 33723, 34377, 34675),
)
_IPTC_TAGS = (33723, 34377)

# Field of `Metadata` -> its name for users, and the formats that have a place for it.
_PLACES = {
    "exif": ("EXIF data", ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")),
    "icc_profile": ("the colour profile", ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")),
    "xmp": ("XMP data", ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")),
    "dpi": ("the resolution (dpi)", ("JPEG", "PNG", "TIFF", "BMP")),
    "comment": ("the comment", ("JPEG", "PNG")),
    "text": ("text", ("PNG",)),
    "gamma": ("the gamma value (gAMA)", ("PNG",)),
    "chromaticity": ("the primaries (cHRM)", ("PNG",)),
    "cicp": ("colour information (cICP)", ("PNG",)),
}
_JPEG_SEGMENT = 65_533
_SRGB = ((0, 0), (1, 1), (1, 13), (2, 2))
"""Primaries and transfer of files that need no note (ITU-T H.273)."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The metadata of a photo, without what is true of its old file only.

    Attributes:
        exif: EXIF data, without orientation and thumbnail.
        icc_profile: the colour profile, if it fits the RGB or grey pixels.
        xmp: XMP data, without orientation.
        dpi: pixels per inch, horizontally and vertically.
        comment: a JPEG's or a GIF's.
        text: a PNG's, keyword -> text.
        gamma: a PNG's.
        chromaticity: a PNG's primaries.
        cicp: primaries, transfer, matrix and range of a PNG, AVIF or HEIF file.
        lost: what cannot be kept in any format, in words for the user.
    """

    exif: bytes | None = None
    icc_profile: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    text: Mapping[str, str] = dataclasses.field(default_factory=dict)
    gamma: float | None = None
    chromaticity: tuple[float, ...] | None = None
    cicp: bytes | None = None
    lost: tuple[str, ...] = ()


NO_METADATA = Metadata()


def read(
    exif: Image.Exif | None, info: Mapping, *, size: tuple[int, int], grey: bool
) -> Metadata:
    """Returns the metadata that describe a photo.

    Args:
        exif: EXIF data; changed. None if they are damaged.
        info: other metadata, by Pillow's names; with `text` of a PNG, and `cicp`.
        size: (height, width) of the upright photo.
        grey: whether it is greyscale.
    """
    # Pillow finds nothing in most damaged data, without an error.
    readable = exif is not None and bool(exif or not info.get("exif"))
    kept_exif = _kept_exif(exif, *size) if readable else None
    lost = [] if kept_exif is not None else ["its EXIF data, which are damaged"]
    if "photoshop" in info or any(tag in (exif or ()) for tag in _IPTC_TAGS):
        lost.append("IPTC data")
    profile = info.get("icc_profile")
    if profile and profile[16:20] != (b"GRAY" if grey else b"RGB "):
        kind = profile[16:20].decode("latin-1").strip()
        lost.append(f"its {kind} colour profile")
        profile = None
    texts = {
        key: str(value)
        for key, value in info.get("text", {}).items()
        if key != _XMP_CHUNK and not key.startswith("Raw profile type")
    }
    cicp = info.get("cicp")
    return Metadata(
        exif=kept_exif or None,
        icc_profile=profile or None,
        xmp=_without_orientation(info.get("xmp") or info.get(_XMP_CHUNK)),
        dpi=_resolution(info.get("dpi")),
        comment=info.get("comment") or None,
        text=texts,
        gamma=info.get("gamma"),
        chromaticity=info.get("chromaticity"),
        cicp=cicp if cicp and tuple(cicp[:2]) not in _SRGB else None,
        lost=tuple(lost),
    )


def options(metadata: Metadata, kind: str) -> tuple[dict, list[str]]:
    """Returns Pillow's options to write metadata, and what the format cannot hold.

    Args:
        metadata: of the photo.
        kind: Pillow's name of the format.
    """
    kept, lost = {}, list(metadata.lost)
    for field, (words, places) in _PLACES.items():
        value = getattr(metadata, field)
        if not value:
            continue
        too_long = kind == "JPEG" and field in ("exif", "xmp", "comment")
        too_long = too_long and len(value) > _JPEG_SEGMENT
        if kind not in places or too_long:
            lost.append(words)
        else:
            kept[field] = value
    if kind == "PNG":
        kept = _for_png(kept)
    elif kind == "TIFF" and "xmp" in kept:
        exif = Image.Exif()
        exif.load(kept.get("exif", b""))
        exif[ExifTags.Base.XMLPacket] = kept.pop("xmp")
        kept["exif"] = exif
    return kept, lost


def _for_png(kept: Mapping) -> dict:
    """Returns options with the chunks that Pillow has no options for."""
    chunks = PngInfo()
    for key, value in kept.get("text", {}).items():
        chunks.add_itxt(key[:79], value, zip=len(value) > 1000)
    if "comment" in kept:
        chunks.add_text("Comment", kept["comment"].decode("latin-1"))
    if "xmp" in kept:
        chunks.add_itxt(_XMP_CHUNK, kept["xmp"].decode("utf-8", "replace"))
    if "cicp" in kept:
        chunks.add(b"cICP", kept["cicp"])
    if "gamma" in kept:
        chunks.add(b"gAMA", round(kept["gamma"] * 100_000).to_bytes(4, "big"))
    if "chromaticity" in kept:
        values = (round(x * 100_000).to_bytes(4, "big") for x in kept["chromaticity"])
        chunks.add(b"cHRM", b"".join(values))
    own = {key: kept[key] for key in ("exif", "icc_profile", "dpi") if key in kept}
    return own | {"pnginfo": chunks}


def _kept_exif(exif: Image.Exif, height: int, width: int) -> bytes | None:
    """Returns the EXIF data that describe the photo, not the old file.

    Empty if there are none, None if they are damaged.
    """
    try:
        for tag in _STALE_TAGS:
            exif.pop(tag, None)
        details = exif.get_ifd(ExifTags.IFD.Exif)
        for tag, side in (
            (ExifTags.Base.ExifImageWidth, width),
            (ExifTags.Base.ExifImageHeight, height),
        ):
            if tag in details:
                details[tag] = side
        exif.bigtiff = False  # as other formats have it
        return exif.tobytes() if exif else b""
    except Exception:  # damaged EXIF data is no reason to refuse the photo
        return None


def _without_orientation(xmp: bytes | str | None) -> bytes | None:
    """Returns XMP data without the orientation, which the pixels have."""
    if not xmp:
        return None
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    element = rb"<tiff:Orientation>\s*\d\s*</tiff:Orientation>"
    return re.sub(rb"\s?tiff:Orientation=(\"\d\"|'\d')|" + element, b"", xmp)


def _resolution(dpi) -> tuple[float, float] | None:
    """Returns the resolution, None if there is none that means anything."""
    try:
        found = tuple(float(value) for value in dpi)
    except (TypeError, ValueError):
        return None
    return found if len(found) == 2 and min(found) > 1 else None
