"""Public data sets, your own folders and rendered scenes, each as a list of image pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rsiccllm.errors import InputError
from rsiccllm.sources.base import Fault, Source, refuse, root_of
from rsiccllm.sources.built import RSICI
from rsiccllm.sources.cdd import CDD
from rsiccllm.sources.changechat import ChangeChat
from rsiccllm.sources.dubai_cc import DubaiCC
from rsiccllm.sources.folder import FolderSource
from rsiccllm.sources.levir_cc import LevirCC, LevirCCCaptions
from rsiccllm.sources.levir_cd import LevirCD
from rsiccllm.sources.rscc import RSCC
from rsiccllm.sources.s2looking import S2Looking
from rsiccllm.sources.second import SECOND, SecondCC
from rsiccllm.sources.sysu_cd import SysuCD
from rsiccllm.sources.whu_cdc import WhuCDC
from rsiccllm.sources.xbd import XBD

__all__ = ["SPECS", "Source", "open_source"]

READERS: dict[str, Callable[[Path, Fault], Source]] = {
    "levir-cc": LevirCC,
    "levir-mci": LevirCC,
    "levir-cc-captions": LevirCCCaptions,
    "levir-cd": LevirCD,
    "sysu-cd": SysuCD,
    "s2looking": S2Looking,
    "cdd": CDD,
    "whu-cdc": WhuCDC,
    "second": SECOND,
    "second-cc": SecondCC,
    "xbd": XBD,
    "dubai-cc": DubaiCC,
    "rscc": RSCC,
    "changechat": ChangeChat,
    "folder": FolderSource,
    "rsici": RSICI,
}
"""The kinds of source that are a place on disk."""

SPECS = {
    **{kind: f"{kind}:{'FILE' if kind == 'levir-cc-captions' else 'DIR'}" for kind in READERS},
    "scenes": "scenes:N[,seed=S,size=PX,easy=1]",
}
"""The kinds of source and how each is written."""


def open_source(spec: str, fault: Fault = refuse) -> Source:
    """The source that a spec names, such as "levir-cc:data/LEVIR-CC" or "scenes:200,seed=1".

    fault: what is done with each fault of the set; by default the first one raises InputError. A spec that is wrong, or
    a set that is not there, always raises InputError.
    """
    kind, _, rest = spec.partition(":")
    if kind not in SPECS:
        wrong = f"unknown kind '{kind}'" if rest or not kind else "no kind"
        raise InputError(f"source '{spec}': {wrong}; expected one of {', '.join(SPECS.values())}")
    if not rest:
        raise InputError(f"source '{spec}': nothing after '{kind}:'; expected {SPECS[kind]}")
    return READERS[kind](root_of(rest), fault) if kind in READERS else _open_scenes(spec, rest)


def _open_scenes(spec: str, rest: str) -> Source:
    # Rendering needs OpenCV, which the other sources do not load.
    from rsiccllm.sources.scenes.source import ScenesSource

    count, *options = rest.split(",")
    values = {"count": count, "seed": "0", "size": "256", "easy": "0"}
    for option in options:
        key, equals, value = option.partition("=")
        if key not in {"seed", "size", "easy"} or not equals:
            raise InputError(f"source '{spec}': bad option '{option}'; expected seed=S, size=PX or easy=1")
        values[key] = value
    for key, text in values.items():
        if not (text.isascii() and text.isdigit() and len(text) < 12):
            raise InputError(f"source '{spec}': {key} is '{text}'; expected a whole number")
    if values["easy"] not in {"0", "1"}:
        raise InputError(f"source '{spec}': easy is {values['easy']}; expected 0 or 1")
    numbers = {key: int(text) for key, text in values.items()}  # ranges are the renderer's own to check
    return ScenesSource(numbers["count"], seed=numbers["seed"], size=numbers["size"], easy=bool(numbers["easy"]))
