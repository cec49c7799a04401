"""Small files that stand for huge ones: each is one line, in little time and little memory."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image
from pydantic import BaseModel

from rsiccllm.caption.images import image_of
from rsiccllm.errors import InputError
from rsiccllm.files import MAX_LINE, parse_yaml, read_json, read_jsonl, read_text
from rsiccllm.journal import Journal
from rsiccllm.pairs import decode_image, open_image, open_mask, probe_image
from rsiccllm.training.recipe import SFTRecipe, load_recipe
from rsiccllm.words import load_words

SIDE = 60_000
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(width: int, height: int, tile: int | None = None) -> bytes:
    """A header that promises a picture (and tiles) of these sides, and two bytes of data."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, 8), (325, 4, 1, 2)] if tile else [
        (273, 4, 1, 8), (278, 4, 1, height), (279, 4, 1, 2)]  # fmt: skip
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags)) + b"\0\0\0\0"
    return b"II*\0" + struct.pack("<I", 10) + b"\x78\x9c" + body


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(SIDE, SIDE), "pixel limit"),
        (png(2**31 - 1, 2**31 - 1), "pixel limit"),
        (tiff(SIDE, SIDE), "pixel limit"),
        (tiff(64, 64, SIDE - SIDE % 16), "expected at most"),
        (tiff(64, 64, 2**31 - 16), "expected at most"),
        (b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, SIDE, SIDE, 1, 24, 0, 0, 0, 0, 0, 0), "pixel limit"),
    ],
    ids=["png", "png_largest", "tiff", "tiff_tile", "tiff_largest_tile", "bmp"],
)
def test_an_image_that_would_be_huge(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for opened in (
        lambda: open_image(path),
        lambda: open_mask(path),
        lambda: probe_image(path),
        lambda: decode_image(data, "x"),
        lambda: image_of(path, "x"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            opened()
        assert "\n" not in str(caught.value)
    assert time.monotonic() - begin < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_text_in_an_image_that_would_be_huge(tmp_path: Path) -> None:
    """A compressed text of a gigabyte, in a picture of 32 x 32 pixels."""
    packer = zlib.compressobj(9)
    text = b"".join(packer.compress(bytes(2**20)) for _ in range(128)) + packer.flush()
    image = io.BytesIO()
    Image.new("L", (32, 32)).save(image, "PNG")
    data = image.getvalue()
    body = b"zTXtcomment\0\0" + text
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError):
        decode_image(data[:33] + chunk + data[33:], "x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_raster_that_would_be_huge(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    from rsiccllm.geo.grid import Grid

    def write(name: str, side: int, **more: object) -> Path:
        profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32633",
                   "transform": from_origin(500000, 5000000, 1, 1), "compress": "deflate", "sparse_ok": True,
                   "bigtiff": "yes", **more}  # fmt: skip
        with rasterio.open(tmp_path / name, "w", **profile):
            pass
        assert (tmp_path / name).stat().st_size < 20_000_000
        return tmp_path / name

    one_block = write("block.tif", 20_000, tiled=True, blockxsize=20_000, blockysize=20_000)
    with pytest.raises(InputError, match="blocks of 20000x20000 pixels, each of which is decoded whole"):
        Grid(one_block, one_block)
    endless = write("endless.tif", 400_000, tiled=True, blockxsize=4096, blockysize=4096)
    with pytest.raises(InputError, match=r"overlap in 400,000x400,000 pixels .* expected at most"):
        Grid(endless, endless)


class Line(BaseModel):
    id: str
    text: str = ""


def test_json_that_is_too_deep_too_long_or_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "[" * 200_000 + "]" * 200_000
    path = tmp_path / "x.json"
    path.write_text(deep, encoding="utf-8")
    with pytest.raises(InputError, match=r"x\.json: JSON is nested too deeply"):
        read_json(path)
    path.write_text(f'{{"id": "a", "text": {deep}}}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"x\.json:1: field"):
        read_jsonl(path, Line)
    journal = Journal(path)
    with pytest.raises(InputError, match=r"x\.json:1: not a JSON object"):
        list(journal.read())
    journal.close()
    path.write_text('{"n": ' + "9" * 10_000 + "}", encoding="utf-8")
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(path)
    path.write_text('{"id": "a", "text": "' + "x" * MAX_LINE + '"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"x\.json:1: a line of 16,\d+,\d+ characters"):
        read_jsonl(path, Line)
    journal = Journal(path)
    with pytest.raises(InputError, match=r"x\.json:1: not a JSON object"):
        list(journal.read())
    journal.close()
    with pytest.raises(InputError, match="/dev/zero: not a regular file"):
        read_text("/dev/zero")
    monkeypatch.setattr("rsiccllm.files.MAX_BYTES", 100)
    with pytest.raises(InputError, match=r"expected at most 100, or several files"):
        read_json(path)


def test_yaml_aliases_tags_and_depth(tmp_path: Path) -> None:
    """Nine lines of aliases stand for nine to the ninth words; a message that shows the value would never end.

    Each is read twice, and takes no longer than an ordinary text of its length some times over, on any machine."""
    path = tmp_path / "x.yaml"
    begin = time.process_time()
    parse_yaml("x: [" + "1, " * 25_000 + "1]", path)
    ordinary = time.process_time() - begin
    for text, reason in (
        (LAUGHS, r"x\.yaml:2: not valid YAML \(aliases"),
        ("model: &a [*a]\n", "aliases"),
        ("model: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("model: !!python/name:os.system\n", "could not determine a constructor"),
        ("model: " + "[" * 50_000, "not valid YAML"),
        ("? [a]\n: b\n", "not valid YAML"),
        ("x: " + "a" * 2**20, "expected at most"),
    ):
        path.write_text(text, encoding="utf-8")
        begin = time.process_time()
        with pytest.raises(InputError, match=reason):
            load_recipe(path, SFTRecipe)
        with pytest.raises(InputError):
            parse_yaml(text, path)
        assert time.process_time() - begin < 5 * ordinary
    path.write_text(LAUGHS, encoding="utf-8")
    with pytest.raises(InputError, match="aliases"):
        load_words(path)
    path.write_text("model: x\ndata: y\nout: z\nlearning_rate: 1e-3\n", encoding="utf-8")
    with pytest.raises(InputError, match="aliases"):
        load_recipe(path, SFTRecipe, ["max_steps=[&a 1, *a]"])
    assert load_recipe(path, SFTRecipe).learning_rate == 1e-3


def test_memory_stays_bounded_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Under a limit on its memory the command answers a bomb with its one line, and does not run into the limit."""
    for side in "AB":
        (tmp_path / side).mkdir()
        (tmp_path / side / "x.png").write_bytes(png(SIDE, SIDE))
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "from rsiccllm.sources import open_source\nfrom rsiccllm.errors import InputError\n"
        "source = open_source(sys.argv[1])\n"
        "try:\n    source.open(source.pairs[0])\nexcept InputError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, f"folder:{tmp_path}"], capture_output=True, text=True)
    assert done.stdout.startswith(f"{tmp_path}/A/x.png: 60000x60000 pixels"), done.stderr
