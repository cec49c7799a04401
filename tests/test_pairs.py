"""Opening images: what is handled gives the right pixels, what is refused says why in one line."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL import Image

from rsiccllm.errors import InputError
from rsiccllm.pairs import OpenedPair, check_size, open_classes, open_image, open_mask, open_pair, probe_image, to_rgb


@pytest.fixture
def colour() -> np.ndarray:
    """[40, 48, 3] uint8 noise."""
    return np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


def save(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def refused(call: object, *arguments: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_rgb_is_unchanged(tmp_path: Path, colour: np.ndarray, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"x.{suffix}", colour, **options)
    opened = open_image(path)
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), colour)
    assert probe_image(path) == (48, 40)


def test_grey_and_palette_and_one_bit(tmp_path: Path, colour: np.ndarray) -> None:
    grey = colour[..., 0]
    assert np.array_equal(np.asarray(open_image(save(tmp_path / "g.png", grey))), np.stack([grey] * 3, axis=2))
    palette = Image.fromarray(colour).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    assert np.array_equal(np.asarray(open_image(save(tmp_path / "p.png", palette))), expected)
    bits = Image.fromarray(grey > 127)
    assert np.array_equal(np.asarray(open_image(save(tmp_path / "b.png", bits)))[..., 1], (grey > 127) * np.uint8(255))


def test_what_is_transparent_is_black(tmp_path: Path, colour: np.ndarray) -> None:
    alpha = np.full((40, 48), 255, np.uint8)
    alpha[:10] = 0
    path = save(tmp_path / "a.png", np.dstack([colour, alpha]))
    pixels = np.asarray(open_image(path))
    assert pixels.shape == (40, 48, 3)
    assert not pixels[:10].any()
    assert np.array_equal(pixels[10:], colour[10:])


def test_16_bit_is_scaled_by_the_range_of_its_type(tmp_path: Path, colour: np.ndarray) -> None:
    grey = colour[..., 0] // 4  # dark: a stretch would brighten it
    wide = grey.astype(np.uint16) * 257
    for name in ("w.png", "w.tif"):
        path = save(tmp_path / name, wide)
        with PIL.Image.open(path) as image:
            assert image.mode.startswith("I")
        assert np.array_equal(np.asarray(open_image(path))[..., 0], grey)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 25700.0, 65535.0], [0, 100, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([0.0, float("nan"), 1.0], [0, 0, 255]),
        ([0.0, float("inf"), 1.0], [0, 0, 255]),
    ],
)
def test_float_tiff(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    image = np.repeat(np.array(values, np.float32), 16)[None].repeat(30, axis=0)  # [30, 48]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = np.asarray(open_image(save(tmp_path / "f.tif", image)))
    assert pixels[0, ::16, 0].tolist() == expected


def test_integers_of_32_bit(tmp_path: Path) -> None:
    image = np.repeat(np.array([0, 7, 255], np.int32), 16)[None].repeat(30, axis=0)
    assert np.asarray(open_image(save(tmp_path / "i.tif", image)))[0, ::16, 0].tolist() == [0, 7, 255]
    image = image * 1_000_000 - 5
    assert np.asarray(open_image(save(tmp_path / "j.tif", image)))[0, ::16, 0].tolist() == [0, 7, 255]


def test_an_image_of_nothing_but_nan_is_black(tmp_path: Path) -> None:
    assert not np.asarray(open_image(save(tmp_path / "n.tif", np.full((30, 30), np.nan, np.float32)))).any()


def test_cmyk(tmp_path: Path) -> None:
    for name in ("c.jpg", "c.tif"):
        path = save(tmp_path / name, Image.new("CMYK", (40, 30), (0, 255, 255, 0)))
        opened = open_image(path)
        assert opened.mode == "RGB"
        red, green, blue = opened.getpixel((5, 5))  # type: ignore[misc]
        assert red > 240
        assert green < 15
        assert blue < 15


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_exif_rotation(tmp_path: Path, orientation: int, suffix: str) -> None:
    # A bright corner on a dark ground: where it must end up follows from the EXIF standard (row 0, column 0 of the
    # stored image is, for orientations 1 to 8, at the visual top left, top right, bottom right, ... of the scene).
    corner = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}[orientation]
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16, :16] = 255
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / f"x.{suffix}", stored, exif=exif)
    size = (32, 64) if orientation > 4 else (64, 32)
    assert probe_image(path) == size
    opened = open_image(path)
    assert opened.size == size
    row = 4 if corner[0] == "t" else opened.height - 5
    column = 4 if corner[1] == "l" else opened.width - 5
    assert opened.getpixel((column, row))[0] > 200  # type: ignore[index]
    assert np.asarray(opened).mean() < 40


def test_masks(tmp_path: Path) -> None:
    marks = np.zeros((30, 40), bool)
    marks[3:9, 5:20] = True
    red = np.zeros((30, 40, 4), np.uint8)
    red[..., 0] = 255  # red everywhere, but seen only where marked
    red[marks, 3] = 255
    for name, image in {
        "bits": Image.fromarray(marks),
        "ones": Image.fromarray(marks.astype(np.uint8)),
        "grey": Image.fromarray(marks.astype(np.uint8) * 255),
        "wide": Image.fromarray(marks.astype(np.uint16) * 3),
        "rgb": Image.fromarray(np.dstack([marks * np.uint8(0), marks * np.uint8(9), marks * np.uint8(0)])),
        "rgba": Image.fromarray(red),
        "palette": Image.fromarray(marks.astype(np.uint8) * 255).convert("P"),
    }.items():
        mask = open_mask(save(tmp_path / f"{name}.png", image))
        assert mask.dtype == bool
        assert np.array_equal(mask, marks), name


def test_classes_keep_their_values(tmp_path: Path) -> None:
    classes = np.zeros((30, 40), np.uint8)
    classes[:10], classes[10:20] = 128, 255
    assert np.array_equal(open_classes(save(tmp_path / "m.png", classes)), classes)
    coloured = np.dstack([classes, classes * 0, classes * 0])
    assert np.array_equal(open_classes(save(tmp_path / "c.png", coloured)), classes)


def test_a_missing_file_and_what_is_no_file(tmp_path: Path) -> None:
    for call in (open_image, probe_image, open_mask):
        assert refused(call, tmp_path / "no.png") == f"{tmp_path / 'no.png'}: no such file"
        assert "is a directory" in refused(call, tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in refused(open_image, tmp_path / "pipe.png")
    assert "cannot be opened" in refused(open_image, tmp_path / ("x" * 300))
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert "cannot be opened" in refused(open_image, tmp_path / "loop.png")
    assert refused(open_image, "a\0b.png")


def test_what_is_not_an_image(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not an image")
    assert "not an image" in refused(open_image, text)
    text.write_bytes(b"")
    assert "empty file" in refused(probe_image, text)
    # PIL would hand this to Ghostscript.
    text.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n")
    assert "not an image" in refused(open_image, text)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, colour: np.ndarray, suffix: str) -> None:
    whole = save(tmp_path / f"whole.{suffix}", colour).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for length in range(1, len(whole) - 40, max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        assert str(path) in refused(open_image, path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_never_give_a_traceback(tmp_path: Path, colour: np.ndarray) -> None:
    random = np.random.default_rng(1)
    for suffix in ("png", "jpg", "tif", "bmp", "webp"):
        whole = np.frombuffer(save(tmp_path / f"whole.{suffix}", colour).read_bytes(), np.uint8)
        path = tmp_path / f"bad.{suffix}"
        for _ in range(60):
            damaged = whole.copy()
            damaged[random.integers(0, min(len(damaged), 400), 8)] = random.integers(0, 256, 8)
            path.write_bytes(damaged.tobytes())
            with suppress(InputError):  # any other exception fails the test
                assert open_image(path).mode == "RGB"


def test_sizes_that_are_refused(tmp_path: Path) -> None:
    def blank(width: int, height: int) -> Path:
        return save(tmp_path / f"{width}x{height}.png", Image.new("L", (width, height)))

    assert "1x300 pixels; expected at least 28" in refused(open_image, blank(1, 300))
    assert "300x27 pixels; expected at least 28" in refused(probe_image, blank(300, 27))
    assert probe_image(blank(28, 28)) == (28, 28)
    assert probe_image(blank(5600, 28)) == (5600, 28)
    assert "at most 200 times" in refused(probe_image, blank(5601, 28))
    assert "expected at most 1,000 (pixel limit)" in refused(open_image, blank(40, 30), max_pixels=1000)
    assert "at most 200 times" in refused(open_image, blank(30000, 100))


def png_header(path: Path, width: int, height: int) -> Path:
    """A PNG that says how large it is and then ends."""
    chunks = b""
    for kind, data in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def test_the_pixel_limit_comes_before_pils_and_before_decoding(tmp_path: Path) -> None:
    """30,000 x 30,000 pixels: PIL alone would raise DecompressionBombError, and decoding would take 2.7 GB."""
    huge = png_header(tmp_path / "huge.png", 30_000, 30_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = refused(open_image, huge)
        assert "30000x30000 pixels, 900,000,000 in all; expected at most 100,000,000" in message
        # Over PIL's warning (89 megapixels), under ours.
        assert probe_image(png_header(tmp_path / "large.png", 9_900, 9_900)) == (9_900, 9_900)
        assert probe_image(huge, max_pixels=10**9) == (30_000, 30_000)
    assert PIL.Image.MAX_IMAGE_PIXELS is not None


def test_check_size_names_what_it_is_given() -> None:
    check_size("a.tif", 100, 100)
    assert refused(check_size, "a.tif", 10, 100).startswith("a.tif: 10x100")


def test_to_rgb_takes_images_that_are_open_already() -> None:
    image = Image.new("LA", (3, 2), (200, 255))
    assert to_rgb(image).getpixel((0, 0)) == (200, 200, 200)


def test_a_pair(tmp_path: Path, colour: np.ndarray) -> None:
    before, after = save(tmp_path / "a.png", colour), save(tmp_path / "b.png", 255 - colour)
    mask = save(tmp_path / "m.png", colour[..., 0] & 1)
    opened = open_pair(before, after, mask)
    assert isinstance(opened, OpenedPair)
    assert np.array_equal(np.asarray(opened.after), 255 - colour)
    assert opened.mask is not None
    assert np.array_equal(opened.mask, (colour[..., 0] & 1).astype(bool))
    assert open_pair(before, after).mask is None


def test_a_pair_of_two_sizes(tmp_path: Path, colour: np.ndarray) -> None:
    before = save(tmp_path / "a.png", colour)
    after = save(tmp_path / "b.png", colour.repeat(2, axis=0).repeat(2, axis=1))
    mask = save(tmp_path / "m.png", (colour[..., 0] > 127).repeat(2, axis=0).repeat(2, axis=1))
    message = refused(open_pair, before, after)
    assert message.startswith(f"{after}: 96x80 pixels, but {before} has 48x40")
    assert "--resize" in message
    assert "m.png: 96x80" in refused(open_pair, before, before, mask)
    opened = open_pair(before, after, mask, resize=True)
    assert opened.before.size == opened.after.size == (48, 40)
    assert opened.mask is not None
    assert np.array_equal(opened.mask, colour[..., 0] > 127)


def test_sizes_are_compared_before_decoding(tmp_path: Path, colour: np.ndarray) -> None:
    before = save(tmp_path / "a.png", colour)
    cut = tmp_path / "b.png"
    cut.write_bytes(save(tmp_path / "w.png", colour[:30]).read_bytes()[:-600])
    assert "48x30 pixels, but" in refused(open_pair, before, cut)
    assert "truncated" in refused(open_pair, cut, cut)
