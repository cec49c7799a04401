"""Opening images, masks and pairs: what is handled, what is refused, and the one line that says why.

Handled: grey, alpha, palette, CMYK, 1-, 8-, 16- and 32-bit images in PNG, JPEG, TIFF, BMP and WebP, and EXIF rotation.
Refused before any pixel is decoded: what is missing, a folder, not an image, too small, too long or over the pixel
limit, and pairs whose sizes differ.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image

from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write

MIN_SIDE = 28
"""Pixels. One merged patch of Qwen2.5-VL (2 x 2 patches of 14); a smaller image gives the model no token."""

MAX_ASPECT = 200
"""Longer side over shorter side. The limit of Qwen2.5-VL's own image processor."""

MAX_PIXELS = 100_000_000
"""Width x height of one image. A pair at the limit takes 600 MB as RGB, which a machine of 4 GB still holds."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""The decoders that are tried. PIL has some fifty more, and one of them (EPS) runs another program on the file."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
"""File name endings (lower case) that count as images when a folder is listed."""


class OpenedPair(NamedTuple):
    """A pair, decoded: two RGB images of equal size, and `mask` [height, width] bool (True: changed) or None."""

    before: PIL.Image.Image
    after: PIL.Image.Image
    mask: np.ndarray | None


class Held(NamedTuple):
    """An image file that is held in memory. name: what errors call it."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


ImageFile = Path | str | Held
"""An image file, by its path or in memory."""


def open_image(path: ImageFile, max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """Decode the whole image, upright, as 8-bit RGB (see `to_rgb`). Raises InputError with one line."""
    with _opened(path, max_pixels) as image:
        return to_rgb(image)


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """`open_image` of a file that is held in memory. name: what errors call it."""
    return open_image(Held(name, data), max_pixels)


def open_mask(path: ImageFile, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """[height, width] bool: True where any colour channel is above zero. Raises InputError like `open_image`."""
    return open_classes(path, max_pixels) > 0


def open_classes(path: ImageFile, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """[height, width] values of a mask: the largest of the colour channels, 0 / 255 for 1-bit masks.

    Palettes are looked up and transparency is black, so a mask means what a viewer shows of it.
    """
    with _opened(path, max_pixels) as image:
        if image.mode.startswith(("I", "F")):
            return np.asarray(image)
        if image.mode in {"1", "L"} and not image.has_transparency_data:
            return np.asarray(image.convert("L"))
        return np.asarray(to_rgb(image)).max(axis=2)


def open_pair(
    before: ImageFile,
    after: ImageFile,
    mask: ImageFile | None = None,
    resize: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> OpenedPair:
    """Open two images of one place, and their mask. Sizes are compared before anything is decoded.

    resize: fit the second image (bicubic) and the mask (nearest) to the first instead of refusing other sizes.
    Raises InputError.
    """
    size = probe_image(before, max_pixels)
    for other in (after, mask):
        if other is None:
            continue
        found = probe_image(other, max_pixels)
        if found != size and not resize:
            raise InputError(
                f"{other}: {found[0]}x{found[1]} pixels, but {before} has {size[0]}x{size[1]}; "
                "expected equal sizes (--resize fits the second to the first)"
            )
    first, second = _both(before, after, max_pixels)
    changed = None if mask is None else open_mask(mask, max_pixels)  # [height, width]
    if second.size != first.size:
        second = second.resize(first.size, PIL.Image.Resampling.BICUBIC)
    if changed is not None and changed.shape != (first.height, first.width):
        nearest = PIL.Image.fromarray(changed).resize(first.size, PIL.Image.Resampling.NEAREST)
        changed = np.asarray(nearest, dtype=bool)
    return OpenedPair(first, second, changed)


def probe_image(path: ImageFile, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) in pixels as it will be opened (EXIF rotation applied), from the header alone.

    Cheap enough to validate thousands of files before long work. Raises InputError for all that the header can tell;
    a file truncated behind its header passes and is refused by `open_image`.
    """
    with _header(path, max_pixels) as image:
        return _upright_size(image)


def check_size(name: Path | str, width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raise InputError naming `name` where an image is too small, too long or over the pixel limit."""
    size = f"{width}x{height} pixels"
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{name}: {size}; expected at least {MIN_SIDE} pixels on each side")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(f"{name}: {size}; expected a longer side of at most {MAX_ASPECT} times the shorter one")
    if width * height > max_pixels:
        raise InputError(f"{name}: {size}, {width * height:,} in all; expected at most {max_pixels:,} (pixel limit)")


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """8-bit RGB from any mode PIL has.

    Transparent pixels become black, so that colours nobody sees are not described. 16-bit grey is divided by 257: the
    range of its type and not of its values, so that two dates keep their true difference in brightness (PIL treats
    16-bit colour likewise). 32-bit integers and floats have no range of use; they are read as 0..1 (floats), 0..255 or
    0..65535, the first that holds every value, or else stretched between their 1st and 99th percentile (`both_to_rgb`:
    of both dates together, so that one value too many does not darken one of them).
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image.copy()
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        return PIL.Image.fromarray(_to_bytes(values, _span([values], image.mode))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "black"), image).convert("RGB")
    return image.convert("RGB")


def save_png(image: PIL.Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all. Raises InputError where `path` cannot be written."""
    with atomic_write(path, "wb") as handle:
        image.save(handle, format="PNG", compress_level=1)


def _both(before: ImageFile, after: ImageFile, max_pixels: int) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    with _opened(before, max_pixels) as one, _opened(after, max_pixels) as other:
        return both_to_rgb(one, other)


def both_to_rgb(one: PIL.Image.Image, other: PIL.Image.Image) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """Two dates as `to_rgb` gives them, 32-bit numbers of one kind by one range."""
    if one.mode != other.mode or one.mode not in {"I", "F"}:
        return to_rgb(one), to_rgb(other)
    values = [np.asarray(one), np.asarray(other)]
    span = _span(values, one.mode)
    first, second = (PIL.Image.fromarray(_to_bytes(part, span)).convert("RGB") for part in values)
    return first, second


def _span(parts: Sequence[np.ndarray], mode: str) -> tuple[float, float]:
    """The numbers that become 0 and 255, of one image or of two dates: see `to_rgb`."""
    if mode.startswith("I;16"):
        return 0.0, 65535.0
    known = np.concatenate([part[np.isfinite(part)].ravel() for part in parts])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    if low >= 0 and high <= 65535:
        return 0.0, 1.0 if mode == "F" and high <= 1 else 255.0 if high <= 255 else 65535.0
    bottom, top = (float(value) for value in np.percentile(known, (1, 99)))
    return bottom, max(top, bottom + 1e-6)


def _to_bytes(values: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    """[height, width] numbers as [height, width] uint8; what is not finite becomes 0."""
    known = np.isfinite(values)
    bottom, top = span
    scaled = (np.where(known, values, 0).astype(np.float32) - bottom) * (255 / (top - bottom))
    return np.where(known, np.clip(np.rint(scaled), 0, 255), 0).astype(np.uint8)


_pil_limit = threading.RLock()


@contextmanager
def _without_pil_limit() -> Iterator[None]:
    """PIL's own guard warns at 89 and fails at 179 megapixels without naming the size: ours replaces it."""
    with _pil_limit:
        limit = PIL.Image.MAX_IMAGE_PIXELS
        PIL.Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _header(path: ImageFile, max_pixels: int) -> Iterator[PIL.Image.Image]:
    """The image with its header read and its size checked, its pixels not decoded yet."""
    path = Path(path) if isinstance(path, str) else path
    try:
        if isinstance(path, Path) and path.is_dir():
            raise InputError(f"{path}: is a directory, expected an image file")
        # A pipe or a device would be read without end.
        if isinstance(path, Path) and path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file, expected an image file")
        with _without_pil_limit():
            image = PIL.Image.open(io.BytesIO(path.data) if isinstance(path, Held) else path, formats=FORMATS)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except PIL.UnidentifiedImageError:
        size = len(path.data) if isinstance(path, Held) else path.stat().st_size
        kind = "empty file" if size == 0 else "not an image, or of a kind that is not read"
        raise InputError(f"{path}: {kind}; expected PNG, JPEG, TIFF, BMP or WebP in grey or colour") from None
    except InputError:
        raise
    except Exception as error:
        # PIL's decoders answer a broken header with almost any exception there is.
        raise InputError(f"{path}: cannot be opened as an image ({_reason(error)})") from None
    with image:
        check_size(str(path), *_upright_size(image), max_pixels)
        _check_blocks(path, image, max_pixels)
        yield image


def _check_blocks(path: ImageFile, image: PIL.Image.Image, max_pixels: int) -> None:
    """A TIFF decodes tile by tile, and a tile may be told to be far larger than the image that it is cut to."""
    tags = getattr(image, "tag_v2", {})
    try:
        sides = [int(tags.get(tag, 1)) for tag in (322, 323)]  # TileWidth, TileLength (TIFF 6.0, section 15)
    except (TypeError, ValueError):
        raise InputError(f"{path}: cannot be opened as an image (tile size is no number)") from None
    if sides[0] * sides[1] > max_pixels:
        raise InputError(f"{path}: tiles of {sides[0]}x{sides[1]} pixels; expected at most {max_pixels:,} in one")


@contextmanager
def _opened(path: ImageFile, max_pixels: int) -> Iterator[PIL.Image.Image]:
    """The image decoded to its last byte and turned upright."""
    with _header(path, max_pixels) as image:
        turn = _TURNS.get(_orientation(image))
        try:
            image.load()
            upright = image if turn is None else image.transpose(turn)
        except Exception as error:
            raise InputError(f"{path}: truncated or damaged, cannot be decoded ({_reason(error)})") from None
        yield upright


_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
"""What makes each EXIF orientation upright (EXIF 2.32, tag 274); 1 is upright."""


def _orientation(image: PIL.Image.Image) -> int:
    """The EXIF orientation, 1 to 8, as far as the header tells (so that `probe_image` and `open_image` agree)."""
    if image.format == "TIFF":  # PIL turns these itself and gives the upright size from the start
        return 1
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1  # getexif would decode the whole file to look for EXIF behind the pixels
    try:
        return int(image.getexif().get(274, 1))
    except Exception:  # damaged EXIF is no reason to refuse the pixels
        return 1


def _upright_size(image: PIL.Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) in {5, 6, 7, 8} else (width, height)


def _reason(error: Exception) -> str:
    """One line of an exception that PIL raised."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:120]
