"""No path from data leaves its root: records, predictions, lists of pairs, symbolic links, virtual rasters, indices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from rsiccllm.benchmark.grounding import read_map
from rsiccllm.caption.listing import list_pairs
from rsiccllm.errors import InputError
from rsiccllm.files import inside
from rsiccllm.model.checkpoint import load_config
from rsiccllm.records import ImagePair, Instruction, Preference
from rsiccllm.rsici.place import safe_name
from rsiccllm.sources import open_source

OUT = ["/etc/passwd", "../secret.png", "a/../../secret.png", "..", "", "a\0.png", "\\\\host\\x.png", "~/x/../../y.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root beside an image that is nobody's business."""
    folder = tmp_path / "root"
    folder.mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "secret.png")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32)).save(folder / name)
    return folder


@pytest.mark.parametrize("path", OUT)
def test_records_and_predictions(root: Path, path: str) -> None:
    with pytest.raises(ValidationError):
        ImagePair(id="x", before="a.png", after=path)
    with pytest.raises(ValidationError):
        Instruction(id="x", pair="x", source="s", task="caption", prompt="?", answers=["y"], before=path, after="b.png")
    with pytest.raises(ValidationError):
        Preference.model_validate({"id": "x", "pair": "x", "source": "s", "before": "a.png", "after": "b.png",
                                   "mask": path, "prompt": "?", "chosen": "y", "rejected": [{"text": "n", "kind": "k"}],
                                   "references": ["y"]})  # fmt: skip
    with pytest.raises(InputError):
        read_map(root, path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.png", "a/../../secret.png"])
def test_a_list_of_pairs(root: Path, path: str) -> None:
    table = root / "pairs.csv"
    table.write_text(f"before,after\na.png,{path}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"pairs\.csv:2: .*leaves the data root .* inside the folder of the list"):
        list_pairs(table, None)
    table.write_text("before,after\na.png,b.png\n", encoding="utf-8")
    assert list_pairs(table, None)[0].after == root / "b.png"


def test_symbolic_links_that_lead_out(root: Path, tmp_path: Path) -> None:
    for side in "AB":
        (root / "set" / side).mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(root / "set" / "A" / "x.png")
    (root / "set" / "B" / "x.png").symlink_to(tmp_path / "secret.png")
    source = open_source(f"folder:{root / 'set'}")
    with pytest.raises(InputError, match=r"leaves the data root .* through a symbolic link"):
        source.open(source.pairs[0])
    item = list_pairs(root / "set" / "A", root / "set" / "B")[0]
    assert "through a symbolic link" in item.fault
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(InputError):
        inside(root, "loop/x.png")
    (root / "inner.png").symlink_to(root / "a.png")  # one that stays inside is as good as a file
    assert inside(root, "inner.png") == root / "inner.png"


def test_names_of_files_that_are_written() -> None:
    for name in (*OUT, "..", ".", ".hidden", "a/b", "x" * 500, "<script>", "con\n"):
        written = safe_name(name)
        assert "/" not in written
        assert not written.startswith(".")
        assert len(written) < 130
    assert safe_name("../x") != safe_name("./x")


def test_an_index_of_weights(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoints["qwen2_5_vl"], folder)
    for content in (
        {"weight_map": {"w": "../model.safetensors"}},
        {"weight_map": {"w": "/tmp/model.safetensors"}},
        {"weight_map": {"w": "pytorch_model.bin"}},
        {"weight_map": ["x"]},
        [],
    ):
        (folder / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(InputError, match=r"index\.json: (names|field 'weight_map')"):
            load_config(str(folder))


def vrt(name: str, relative: str = "1", more: str = "") -> str:
    source = f'<SourceFilename relativeToVRT="{relative}">{name}</SourceFilename><SourceBand>1</SourceBand>'
    return (
        '<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>EPSG:32633</SRS>'
        "<GeoTransform>500000, 1, 0, 5000000, 0, -1</GeoTransform>"
        f'<VRTRasterBand dataType="Byte" band="1">{more}<SimpleSource>{source}</SimpleSource></VRTRasterBand>'
        "</VRTDataset>"
    )


def test_a_virtual_raster_names_tiffs_of_its_own_folder(root: Path, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import from_origin
    from rasterio.windows import Window

    from rsiccllm.geo.grid import Grid

    def tiff(path: Path) -> None:
        profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 1, "dtype": "uint8", "crs": "EPSG:32633",
                   "transform": from_origin(500000, 5000000, 1, 1)}  # fmt: skip
        with rasterio.open(path, "w", **profile) as handle:
            handle.write(np.arange(64 * 64, dtype=np.uint8).reshape(1, 64, 64))

    tiff(root / "in.tif")
    tiff(tmp_path / "out.tif")
    (root / "link.tif").symlink_to(tmp_path / "out.tif")
    (root / "disguised.tif").write_text(vrt("/etc/passwd", "0"), encoding="utf-8")
    (root / "inner.vrt").write_text(vrt("in.tif"), encoding="utf-8")
    (root / "round.vrt").write_text(vrt("round.vrt"), encoding="utf-8")
    path = root / "x.vrt"

    def opened(text: str) -> None:
        path.write_text(text, encoding="utf-8")
        with Grid(path, root / "in.tif", register=False, trusted=True) as grid:
            assert grid.read(Window(0, 0, 64, 64)).before.max() > 200

    opened(vrt("in.tif"))
    opened(vrt("inner.vrt"))
    refused: dict[str, Callable[[], str]] = {
        "not relative to itself": lambda: vrt(str(tmp_path / "out.tif"), "0"),
        "leaves the data root": lambda: vrt("../out.tif"),
        "through a symbolic link": lambda: vrt("link.tif"),
        "cannot be read": lambda: vrt("/vsicurl/http://127.0.0.1:9/x.tif".lstrip("/")),
        "is no TIFF": lambda: vrt("disguised.tif"),
        "nested too deeply": lambda: vrt("round.vrt"),
        "PixelFunctionLanguage": lambda: vrt("in.tif", more="<PixelFunctionLanguage>Python</PixelFunctionLanguage>"),
        "defines entities": lambda: '<!DOCTYPE x [<!ENTITY a "a">]>' + vrt("&a;"),
        "not valid XML": lambda: "<VRTDataset>",
    }
    for reason, text in refused.items():
        with pytest.raises(InputError, match=reason):
            opened(text())
