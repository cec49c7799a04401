"""Tiles in this process, in two, and on a Ray of this machine: the same bytes. With a real model, though a tiny one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rasterio")
pytest.importorskip("pyogrio")
from rasters import scene, write
from rsiccllm.errors import InputError
from rsiccllm.geo.run import MapSettings, map_rasters
from rsiccllm.geo.work import groups_of

FILES = ("change.tif", "changes.geojson", "changes.gpkg", "changes.qml", "summary.json", "tiles.jsonl")


@pytest.fixture(scope="module")
def whole(mapping_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two rasters, and the map of them that this process alone has made."""
    folder = tmp_path_factory.mktemp("whole")
    before, after = (date[:, 150:350, 100:300].copy() for date in scene())
    after[:, 5:35, 140:190] = 240
    paths = write(folder / "a.tif", before), write(folder / "b.tif", after)
    summary = map_rasters(*paths, folder / "out", str(mapping_checkpoint), settings())
    assert summary["tiles"]["captioned"] >= 3
    return *paths, folder / "out"


def settings(**more: object) -> MapSettings:
    return MapSettings(tile=84, overlap=28, batch_size=2, smallest=5, **more)  # type: ignore[arg-type]


def same_bytes(whole: tuple[Path, Path, Path], out: Path, model: Path, **more: object) -> None:
    before, after, expected = whole
    map_rasters(before, after, out, str(model), settings(**more))
    for file in FILES:
        assert (out / file).read_bytes() == (expected / file).read_bytes(), file


def test_two_processes_give_the_same_bytes(
    whole: tuple[Path, Path, Path], tmp_path: Path, mapping_checkpoint: Path
) -> None:
    same_bytes(whole, tmp_path / "out", mapping_checkpoint, workers=2)


def test_ray_gives_the_same_bytes(
    whole: tuple[Path, Path, Path], tmp_path: Path, mapping_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    try:
        same_bytes(whole, tmp_path / "out", mapping_checkpoint, workers=2, ray="local")
    except InputError as error:
        if "timed out during startup" in str(error):
            pytest.skip("Ray did not start within its own 30 s: the machine is too busy")
        raise
    assert not ray.is_initialized()


def test_a_cluster_that_is_not_there_is_told(whole: tuple[Path, Path, Path], tmp_path: Path, mapping_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip  # noqa: E501
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(InputError, match=r"--ray nonsense: cannot be started or joined.*RAY_AUTH_MODE=token"):
        map_rasters(*whole[:2], tmp_path / "out", str(mapping_checkpoint), settings(ray="nonsense"))


def test_a_fault_in_a_worker_is_told(whole: tuple[Path, Path, Path], tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:  # fmt: skip  # noqa: E501
    plain = str(tiny_checkpoints["qwen2_5_vl"])  # without a change map
    with pytest.raises(InputError, match="has no change map"):
        map_rasters(*whole[:2], tmp_path / "out", plain, settings(workers=2))


def test_groups_hold_every_tile_once_and_stay_in_a_row() -> None:
    groups = list(groups_of(1000, 500, 256, 64, 3))
    tiles = [tile for group in groups for tile in group]
    assert len({tile.id for tile in tiles}) == len(tiles) == 5 * 3
    assert all(len(group) <= 3 and len({tile.top for tile in group}) == 1 for group in groups)
