"""Every parser of what comes from outside, as a function of bytes. It returns, or it raises what a user is told.

A target may raise `InputError` (and the server its Refusal, the endpoint's reader its Fault), each in one line;
whatever else comes out is a fault.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "sources")]

import fakes  # noqa: E402
from mutate import Reader, as_json, mutated  # noqa: E402

from rsiccllm.errors import InputError  # noqa: E402

Target = Callable[[bytes], None]

SHM = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where a file is written in memory."""

_ROOM = Path(os.environ.get("FUZZ_ROOM") or tempfile.mkdtemp(prefix="fuzz_", dir=SHM))
atexit.register(shutil.rmtree, _ROOM, ignore_errors=True)


def holds(parse: Callable[[], Any], *allowed: type[Exception]) -> None:
    """The property: a valid parse, or one line that says what is wrong."""
    try:
        parse()
    except InputError as error:
        message = str(error)
        assert message.strip(), "an empty message"
        assert len(message) < 20_000, f"a message of {len(message)} characters"
    except allowed:
        pass


def _file(name: str, data: bytes) -> Path:
    path = _ROOM / name
    path.write_bytes(data)
    return path


def _document(data: bytes, *seeds: Any) -> bytes:
    """The bytes as they are, or (three times in four) a valid document that they change."""
    reader = Reader(data)
    choice = reader.number(4)
    return data[2:] if choice == 0 else as_json(mutated(seeds[choice % len(seeds)], reader))


# Records

_PAIR = {"id": "x", "split": "train", "before": "a/b.png", "after": "b.png", "mask": "m.png", "captions": ["a house"],
         "facts": [{"object": "building", "direction": "appear", "verb": "build"}], "changed": True,
         "dialogues": [[{"question": "q", "answer": "a"}]]}  # fmt: skip
_INSTRUCTION = {"id": "x", "pair": "x", "source": "s", "task": "caption", "before": "a.png", "after": "b.png",
                "prompt": "?", "answers": ["a house is built"],
                "history": [{"question": "q", "answer": "a"}]}  # fmt: skip
_PREFERENCE = {"id": "x", "pair": "x", "source": "s", "before": "a.png", "after": "b.png", "prompt": "?",
               "chosen": "a house", "rejected": [{"text": "a road", "kind": "object", "similarity": 0.5}],
               "references": ["a house"]}  # fmt: skip


def records(data: bytes) -> None:
    from rsiccllm.files import read_jsonl
    from rsiccllm.records import ImagePair, Instruction, Preference

    kinds = ((ImagePair, _PAIR), (Instruction, _INSTRUCTION), (Preference, _PREFERENCE))
    record, seed = kinds[data[0] % 3 if data else 0]
    path = _file("records.jsonl", _document(data[1:], seed) + (b"\n" + as_json(seed) if len(data) % 2 else b""))
    holds(lambda: read_jsonl(path, record))  # type: ignore[type-var]


# Settings and words

_RECIPE = b"model: runs/base\ndata: {runs/rsici: 1.0}\nout: runs/out\nlearning_rate: 1e-3\nbatch_size: 8\nema: 0.9\n"


def _yaml(data: bytes, seed: bytes) -> bytes:
    """The seed with its pieces cut, doubled and replaced by bytes of the input."""
    reader = Reader(data)
    text = bytearray(seed)
    for _ in range(1 + reader.number(4)):
        begin = reader.number(len(text) + 1)
        text[begin : begin + reader.number(12)] = reader.rest(reader.number(16))
    return bytes(text) if reader.number(4) else data


def recipes(data: bytes) -> None:
    from rsiccllm.training.recipe import DifferenceRecipe, DNPORecipe, Recipe, SFTRecipe, load_recipe

    kinds: tuple[type[Recipe], ...] = (SFTRecipe, DNPORecipe, DifferenceRecipe)
    path = _file("recipe.yaml", _yaml(data[1:], _RECIPE))
    override = data[-40:].decode("utf-8", "replace")
    holds(lambda: load_recipe(path, kinds[data[0] % 3 if data else 0], [override] if len(data) % 2 else []))


def words(data: bytes) -> None:
    from rsiccllm.words import load_words

    seed = b"objects:\n  building:\n    write: [shed/sheds]\n    near: [road]\nadjectives: [tall]\n"
    path = _file("words.yaml", _yaml(data, seed))
    load_words.cache_clear()
    holds(lambda: load_words(path))


def facts(data: bytes) -> None:
    from rsiccllm.facts import parse

    reader = Reader(data)
    known = "a house is built in the top left corner and no trees , roads are removed . nothing has changed 3 on of"
    known_words = known.split()
    said = [known_words[reader.number(len(known_words))] for _ in range(reader.number(30))]
    parse(" ".join(said) + reader.rest(200).decode("utf-8", "replace"))


# Data sets


def _rsici(root: Path) -> None:
    fakes.draw(root / "a.png")
    fakes.draw(root / "b.png", 1)
    pair = {**_PAIR, "before": "a.png", "after": "b.png", "mask": None}
    (root / "pairs.jsonl").write_text(json.dumps(pair) + "\n", encoding="utf-8")


_LAYOUTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "levir-cc": (fakes.levir_cc, "LevirCCcaptions.json"),
    "whu-cdc": (fakes.whu_cdc, "whuCCcaptions.json"),
    "second-cc": (fakes.second_cc, "SECOND-CC-AUG.json"),
    "dubai-cc": (fakes.dubai_cc, "description_jsontr_te_val/Train_Dubai.json"),
    "rscc": (fakes.rscc, "RSCC_qvq.jsonl"),
    "changechat": (fakes.changechat, "changechat_105k_train.json"),
    "rsici": (_rsici, "pairs.jsonl"),
}
"""Sets with annotations: how each is laid out, and the file that says what is in it."""


@cache
def _laid_out(kind: str) -> tuple[Path, Any]:
    """The set on disk, and its annotations as they should be."""
    root = _ROOM / kind
    root.mkdir()
    layout, name = _LAYOUTS[kind]
    layout(root)
    text = (root / name).read_text(encoding="utf-8")
    return root / name, json.loads(text.splitlines()[0] if name.endswith("jsonl") else text)


def _source(kind: str) -> Target:
    def target(data: bytes) -> None:
        from rsiccllm.sources import open_source

        path, seed = _laid_out(kind)
        path.write_bytes(_document(data, seed))
        root = path.parent.parent if kind == "dubai-cc" else path.parent
        holds(lambda: open_source(f"{kind}:{root}"))
        faults: list[str] = []
        holds(lambda: open_source(f"{kind}:{root}", faults.append))
        assert all(fault.strip() for fault in faults)

    return target


def levir_cc_captions(data: bytes) -> None:
    from rsiccllm.sources import open_source

    _, seed = _laid_out("levir-cc")
    path = _file("captions.json", _document(data, seed))
    holds(lambda: open_source(f"levir-cc-captions:{path}"))


def folder(data: bytes) -> None:
    from rsiccllm.sources import open_source

    root = _ROOM / "folder"
    if not root.exists():
        fakes.folder(root)
    seeds = ({"x.png": ["a", "b"], "y.png": "c"},
             [{"filename": "x.png", "sentences": ["a", {"raw": "b", "tokens": ["b"]}], "split": "val",
               "changeflag": 1}],
             {"images": [{"filename": "x.png", "sentences": ["a"]}]})  # fmt: skip
    (root / "captions.json").write_bytes(_document(data, *seeds))
    holds(lambda: open_source(f"folder:{root}"))


def file_names(data: bytes) -> None:
    """The sets that are told by their files' names: one more file of any name in any of their folders."""
    from rsiccllm.sources import open_source

    layouts: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
        "levir-cd": (fakes.levir_cd, ("train/A", "train/B", "train/label", "train")),
        "second": (fakes.second, ("im1", "im2", "label1", "label2")),
        "xbd": (fakes.xbd, ("train/images", "train/targets", "test/images")),
        "folder": (fakes.folder, ("A", "B", "label")),
    }
    reader = Reader(data)
    kind = sorted(layouts)[reader.number(len(layouts))]
    root = _ROOM / f"names-{kind}"
    if not root.exists():
        layouts[kind][0](root)
    places = layouts[kind][1]
    name = reader.rest(60).replace(b"/", b"_").replace(b"\0", b"_")[:200] + (b".png", b".jpg", b"")[reader.number(3)]
    at = root / places[reader.number(len(places))]
    if name in {b"", b".", b".."} or not at.is_dir():
        return
    path = at / name.decode("utf-8", "surrogateescape")
    if path.exists():
        return
    path.write_bytes(b"")
    try:
        holds(lambda: open_source(f"{kind}:{root}"))
        holds(lambda: open_source(f"{kind}:{root}", lambda fault: None))
    finally:
        path.unlink()


def specs(data: bytes) -> None:
    from rsiccllm.sources import SPECS, open_source

    reader = Reader(data)
    kind = [*SPECS, ""][reader.number(len(SPECS) + 1)]
    text = reader.rest(60).decode("utf-8", "replace")
    if kind == "scenes" and text[:1].isdigit():  # rendering is no parsing, and slow
        text = f"0{text[1:3]},{text[3:]}"
    holds(lambda: open_source(f"{kind}:{text}"))


# Files of captions, lists, journals


def predictions(data: bytes) -> None:
    from rsiccllm.benchmark.predictions import load_lines, match

    seed = {"id": "x", "caption": "a house", "probability": 0.5, "change_map": "maps/x.png", "crc32": "00000000"}
    path = _file("predictions.jsonl", _document(data, seed, {"id": "y", "caption": ""}))
    holds(lambda: match({key: line.caption for key, line in load_lines(path).items()}, {"x": ["a"]}, "x"))


def listing(data: bytes) -> None:
    from rsiccllm.caption.listing import list_pairs

    seed = b'id,before,after\nx,a.png,b.png\n"y, z",c.png,"d.png"\n'
    path = _file("pairs.csv", _yaml(data, seed))
    holds(lambda: list_pairs(path, None))


def calibration(data: bytes) -> None:
    from rsiccllm.caption.calibration import load_calibration

    seed = {"schema": "rsiccllm.calibration.v2", "slopes": [1.5, 0.5], "intercept": -0.5, "rows": 20}
    path = _file("calibration.json", _document(data, seed))

    def parse() -> None:
        found = load_calibration(path.parent)
        assert found is None or 0 <= found.confidence([0.5] * len(found.slopes)) <= 1

    holds(parse)


def journal(data: bytes) -> None:
    from rsiccllm.journal import Journal, seal

    lines = [_document(data[start : start + 60], seal({"id": "x", "caption": "a"})) for start in range(0, 180, 60)]
    path = _file("journal.jsonl", b"\n".join(lines) + b"\n" * (len(data) % 2))

    def parse() -> None:
        held = Journal(path)
        try:
            for _ in held.read():
                pass
            held.append({"id": "y"})
        finally:
            held.close()

    holds(parse)


def ledgers(data: bytes) -> None:
    """The endpoint's journal, the build's, and the captioner's list of what is done."""
    from rsiccllm.endpoint.ledger import Ledger
    from rsiccllm.endpoint.settings import Budget, Endpoint
    from rsiccllm.rsici.journal import NAME, AnswerJournal

    answer = {"id": "x", "text": "a", "finish": "stop", "prompt_tokens": 1, "completion_tokens": 1, "estimated": False}
    seeds = (answer, {"sent": "x"}, {"fault": "x", "reason": "timeout"})
    path = _file("ledger.jsonl", _document(data, *seeds) + b"\n")
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", price_in=1.0)
    holds(lambda: Ledger(endpoint, path, Budget(money=1.0)).close())
    _file(NAME, _document(data, {"key": "x", "answers": ["a"]}, {"key": "y", "failure": ["refused", "why"]}) + b"\n")
    holds(lambda: AnswerJournal(_ROOM).close())


def decisions(data: bytes) -> None:
    """What people decided and rated."""
    from rsiccllm.benchmark.judge_people import read_people
    from rsiccllm.records import Instruction
    from rsiccllm.rsici.review.decisions import REVIEWS, read_reviews

    decision = {"item": "x", "reviewer": "r", "choice": "accept", "answers": ["a house is built"], "at": "2026"}
    _file(REVIEWS, _document(data, decision))
    holds(lambda: read_reviews(_ROOM, [Instruction.model_validate(_INSTRUCTION)]).apply([]))
    rating = {
        "rater": "r",
        "pair": "x",
        "model": "m",
        "object": 1,
        "direction": 2,
        "verb": 3,
        "magnitude": 4,
        "at": "1",
    }
    path = _file("ratings.jsonl", _document(data, rating))
    holds(lambda: read_people(path, {("x", "m"): "a"}))


def vrt(data: bytes) -> None:
    from rsiccllm.geo.vrt import check_vrt

    seed = (b'<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand band="1"><SimpleSource><SourceFilename '
            b'relativeToVRT="1">in.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>')  # fmt: skip
    path = _file("x.vrt", _yaml(data, seed))
    holds(lambda: check_vrt(path))


# Images and requests


@cache
def _pictures() -> list[bytes]:
    import io

    from PIL import Image

    found = []
    for mode in ("RGB", "L", "P", "RGBA", "1", "I;16"):
        for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
            buffer = io.BytesIO()
            image = Image.new("RGB", (32, 30), (200, 30, 60)).convert("L" if mode == "I;16" else mode)
            try:
                (image.convert("I;16") if mode == "I;16" else image).save(buffer, kind)
            except (OSError, ValueError):
                continue  # no such mode in this kind
            found.append(buffer.getvalue())
    return found


def images(data: bytes) -> None:
    from rsiccllm.pairs import decode_image, open_classes, probe_image

    reader = Reader(data)
    pictures = _pictures()
    text = bytearray(pictures[reader.number(len(pictures))])
    for _ in range(1 + reader.number(6)):
        begin = reader.number(len(text) + 1) if reader.number(3) else reader.number(64)
        text[begin : begin + reader.number(5)] = reader.rest(reader.number(6))
    whole = bytes(text) if reader.number(8) else data
    limit = 200_000
    holds(lambda: decode_image(whole, "x", limit))
    if data and data[0] % 4 == 0:
        path = _file("x.png", whole)
        holds(lambda: probe_image(path, limit))
        holds(lambda: open_classes(path, limit))


def requests(data: bytes) -> None:
    """Bodies for the server, down to the decoded images."""
    import base64

    from rsiccllm.serve.settings import Limits
    from rsiccllm.serve.wish import Refusal, open_images, read_wish

    limits = Limits(pixels=200_000)
    uri = "data:image/png;base64," + base64.b64encode(_pictures()[0]).decode()
    parts = [{"type": "image_url", "image_url": {"url": uri}}] * 2 + [{"type": "text", "text": "What changed?"}]
    seed = {"model": "m", "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": parts}],
            "max_tokens": 8, "n": 1, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stream": False,
            "stream_options": {"include_usage": True}}  # fmt: skip
    holds(
        lambda: open_images(read_wish(_document(data, seed), "m", limits, ("<|im_end|>",), 64).images, limits), Refusal
    )


def answers(data: bytes) -> None:
    """What an endpoint sends back."""
    from rsiccllm.endpoint.wire import Fault, read_completion, read_error, retry_after

    choice = {"finish_reason": "stop", "message": {"content": "a house", "refusal": None}}
    seed = {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    body = _document(data, seed, {"error": {"message": "m", "code": "c"}})
    holds(lambda: read_completion(body), Fault)
    read_error(body)
    retry_after({"retry-after": data[:30].decode("latin-1")})


# What needs torch to be imported


def references(data: bytes) -> None:
    from rsiccllm.training.reference import FORM, read_reference

    wanted = {"schema": FORM, "weights": "w", "answers": "a", "min_pixels": None, "max_pixels": None, "bf16": False,
              "rows": 1}  # fmt: skip
    first, second = data[: len(data) // 2], data[len(data) // 2 :]
    head = as_json(wanted) if len(data) % 3 else _document(first, wanted)
    path = _file("reference.jsonl", head + b"\n" + _document(second, {"id": "x", "log_probs": [-1.0, -2.0]}) + b"\n")
    holds(lambda: read_reference(path, wanted, "m"))


def model_folders(data: bytes) -> None:
    from rsiccllm.model.checkpoint import WHOLE, check_whole, load_config

    root = _ROOM / "model"
    root.mkdir(exist_ok=True)
    seed = {"model_type": "qwen2_5_vl", "text_config": {"hidden_size": 64, "num_hidden_layers": 1},
            "vision_config": {"depth": 1, "hidden_size": 32}, "tie_word_embeddings": True}  # fmt: skip
    (root / "config.json").write_bytes(_document(data, seed))
    holds(lambda: load_config(str(root)))
    (root / WHOLE).write_bytes(_document(data, {"config.json": "0" * 64}))
    holds(lambda: check_whole(str(root)))
    (root / WHOLE).unlink()
    index = root / "model.safetensors.index.json"
    index.write_bytes(_document(data, {"weight_map": {"w": "model-00001.safetensors"}}))
    holds(lambda: load_config(str(root)))
    index.unlink()


@cache
def _shard() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rsiccllm.training.shards import SCHEMA

    rows = [{"record": as_json(_INSTRUCTION).decode(), "before": b"1", "after": b"2", "mask": None}] * 3
    held = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), held, row_group_size=2)
    return bytes(held.getvalue())


def shards(data: bytes) -> None:
    """An index and its shard: one of the two is changed, and the checksum is that of what lies there."""
    import hashlib

    from rsiccllm.training.shard_cache import ShardCache
    from rsiccllm.training.shards import INDEX, Shards

    root, reader = _ROOM / "shards", Reader(data[1:])
    root.mkdir(exist_ok=True)
    content, of_index = bytearray(_shard()), data[:1] < b"\x80"
    for _ in range(0 if of_index else 1 + reader.number(4)):
        content[reader.number(len(content))] = reader.number(256)
    (root / "shard-00000.parquet").write_bytes(content)
    told = {"name": "shard-00000.parquet", "rows": 3, "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest()}  # fmt: skip
    seed = {"schema": "rsiccllm.shards.v1", "made_of": "x", "records": "instructions", "split": "train", "group": 2,
            "seen": ["x/train"], "longest": [0], "shards": [told]}  # fmt: skip
    (root / INDEX).write_bytes(_document(data[1:], seed) if of_index else as_json(seed))

    def parse() -> None:
        rows = Shards(root, ShardCache(root / "cache", 1e6))
        for number in range(min(len(rows), 3)):
            rows.row(number)

    holds(parse)


TARGETS: dict[str, tuple[Target, float]] = {
    "records": (records, 4),
    "recipes": (recipes, 0.4),
    "words": (words, 0.03),
    "facts": (facts, 0.5),
    **{kind: (_source(kind), 0.15) for kind in _LAYOUTS},
    "levir-cc-captions": (levir_cc_captions, 0.2),
    "folder": (folder, 0.2),
    "file_names": (file_names, 0.1),
    "specs": (specs, 2),
    "predictions": (predictions, 4),
    "listing": (listing, 6),
    "calibration": (calibration, 5),
    "journal": (journal, 2),
    "ledgers": (ledgers, 0.5),
    "decisions": (decisions, 0.2),
    "vrt": (vrt, 8),
    "images": (images, 2),
    "requests": (requests, 2),
    "answers": (answers, 12),
    "references": (references, 0.5),
    "shards": (shards, 0.5),
    "model_folders": (model_folders, 0.01),
}
"""Each parser, and its share of the inputs: those that take long get few."""
