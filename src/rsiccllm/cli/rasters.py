"""`rsiccllm map`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsiccllm.cli.shared import Out, need, quiet, say

app = typer.Typer()


@app.command("map")
def map_command(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="the first date, a GeoTIFF or VRT")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="the second date, on any grid that overlaps")],
    out: Out,
    model: Annotated[
        str | None, typer.Option(help="a run's folder, a checkpoint folder or a hub name (default: the one in the box)")
    ] = None,
    bands: Annotated[tuple[int, int, int] | None, typer.Option(help="shown as red, green, blue; from 1")] = None,
    dates: Annotated[tuple[str, str] | None, typer.Option(help="of the two, as they are to stand in the files")] = None,
    smallest: Annotated[float, typer.Option(min=0, help="square metres of a polygon, at least")] = 20.0,
    tile: Annotated[int, typer.Option(help="pixels of a tile, a side")] = 256,
    overlap: Annotated[int, typer.Option(help="pixels that tiles share")] = 64,
    register: Annotated[bool, typer.Option(help="correct the shift left between the dates")] = True,
    workers: Annotated[int, typer.Option(min=1, help="processes, or with --ray actors; each loads the model")] = 1,
    ray: Annotated[
        str | None, typer.Option(help="spread the work by Ray: local starts one here, auto or an address joins one")
    ] = None,
) -> None:
    """Map what changed between two rasters of any size.

    Writes polygons (GeoJSON and GeoPackage), the change map (a COG), a QGIS style beside each and a summary. Stopped,
    it goes on when called again. Needs: pip install 'rsiccllm[geo]', for --ray 'rsiccllm[ray]' too.

    \b
    Examples:
      rsiccllm map 2019.tif 2023.tif --dates 2019-05-01 2023-06-01 --out runs/map
      rsiccllm map 2019.vrt 2023.vrt --workers 8 --out runs/county
    """
    need("rasterio", "shapely", "pyogrio", extra="geo")
    if ray is not None:
        need("ray", extra="ray")
    quiet()
    from rsiccllm.geo.run import MapSettings, map_rasters

    settings = MapSettings(tile, overlap, smallest, bands, dates, register, workers, ray)
    summary = map_rasters(before, after, out, model, settings)
    for line in summary["warnings"]:
        say(f"note: {line}")
    print(summary["text"])
