"""Images as people hold them (a path, PIL, numpy, torch), as the RGB image that the model is shown."""

from __future__ import annotations

import sys
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from rsiccllm.errors import InputError
from rsiccllm.pairs import OpenedPair, both_to_rgb, check_size, open_image, open_pair, to_rgb

if TYPE_CHECKING:
    import torch

    ImageLike = str | PathLike[str] | PIL.Image.Image | np.ndarray | torch.Tensor


def pair_of(before: ImageLike, after: ImageLike, resize: bool = False, where: str = "") -> OpenedPair:
    """Two images of one place, ready for the model. Each may be another kind of thing (see `image_of`).

    resize: fit the second (bicubic) to the first instead of refusing another size. where: "[3]" and the like, said
    after the names "before" and "after" in errors. Raises InputError.
    """
    if isinstance(before, str | PathLike) and isinstance(after, str | PathLike):
        return open_pair(Path(before), Path(after), resize=resize)  # sizes are compared before anything is decoded
    names = f"before{where}", f"after{where}"
    if isinstance(before, PIL.Image.Image) and isinstance(after, PIL.Image.Image) and before.mode in {"I", "F"}:
        first, second = both_to_rgb(*(_upright(*given) for given in zip((before, after), names, strict=True)))
    else:
        first, second = image_of(before, names[0]), image_of(after, names[1])
    if first.size != second.size:
        if not resize:
            raise InputError(
                f"after{where}: {second.width}x{second.height} pixels, but before{where} has "
                f"{first.width}x{first.height}; expected equal sizes (resize=True fits the second to the first)"
            )
        second = second.resize(first.size, PIL.Image.Resampling.BICUBIC)
    return OpenedPair(first, second, None)


def image_of(given: ImageLike, name: str) -> PIL.Image.Image:
    """`given` as 8-bit RGB.

    A path; a PIL image of any mode; numpy [height, width, 3] or [height, width], uint8 or floats in 0..1; torch
    [3, height, width], uint8 or floats in 0..1. name: what errors call it. Raises InputError for anything else.
    """
    if isinstance(given, str | PathLike):
        return open_image(Path(given))
    if isinstance(given, PIL.Image.Image):
        return to_rgb(_upright(given, name))
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(given, torch.Tensor):
        if given.ndim != 3 or given.shape[0] != 3:
            raise InputError(f"{name}: a tensor of shape {list(given.shape)}, expected [3, height, width]")
        return _from_array(given.detach().cpu().movedim(0, -1).float().numpy()
                           if given.is_floating_point() else given.cpu().movedim(0, -1).numpy(), name)  # fmt: skip
    if isinstance(given, np.ndarray):
        if given.ndim != 2 and not (given.ndim == 3 and given.shape[2] == 3):
            raise InputError(
                f"{name}: an array of shape {list(given.shape)}, expected [height, width, 3] or [height, width]"
            )
        return _from_array(given, name)
    raise InputError(f"{name}: a {type(given).__name__}, expected a path, a PIL image, a numpy array or a torch tensor")


def _upright(given: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """The image decoded, and turned as its EXIF says."""
    check_size(name, *given.size)
    try:
        given.load()
        return PIL.ImageOps.exif_transpose(given)
    except Exception as error:  # a damaged file shows when it is decoded, by almost any exception there is
        raise InputError(f"{name}: cannot be decoded ({' '.join(str(error).split())[:120]})") from None


def _from_array(values: np.ndarray, name: str) -> PIL.Image.Image:
    check_size(name, values.shape[1], values.shape[0])
    if np.issubdtype(values.dtype, np.floating):
        # Not 0..1 (or not a number at all): it would be clipped to something that is not the image.
        if not (values.min() >= 0 and values.max() <= 1):
            raise InputError(f"{name}: floats from {values.min():g} to {values.max():g}, expected 0 to 1")
        values = np.rint(255 * values).astype(np.uint8)
    if values.dtype != np.uint8:
        raise InputError(f"{name}: numbers of type {values.dtype}, expected uint8, or floats in 0..1")
    return PIL.Image.fromarray(np.ascontiguousarray(values)).convert("RGB")
