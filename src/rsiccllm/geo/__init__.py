"""Georeferenced rasters of any size: two scenes in, polygons of what changed and a change raster out."""
