"""`rsiccllm bench export`: a split as other people's harnesses read it, with the word-level scores of the field.

lmms-eval: a task folder (a YAML, its functions, the pairs as Parquet), used by `--include_path FOLDER`.
VLMEvalKit: a TSV in its form for several images, and a dataset class to put beside its own.
What they compute is the field's BLEU, ROUGE-L and CIDEr-D by pycocoevalcap on words; facts, probes, intervals and
everything else stays with `rsiccllm bench score`, to which both write captions it reads.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import PIL.Image

from rsiccllm.benchmark.texts import texts_of
from rsiccllm.caption.captioner import LONGEST
from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write
from rsiccllm.progress import track
from rsiccllm.records import ImagePair
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources import open_source
from rsiccllm.sources.base import Source

_TEXT = {"dtype": "string", "_type": "Value"}
_FEATURES = {
    "id": _TEXT,
    "before": {"_type": "Image"},
    "after": {"_type": "Image"},
    "question": _TEXT,
    "references": {"feature": _TEXT, "_type": "Sequence"},
    "changed": {"dtype": "bool", "_type": "Value"},
}

Harness = Literal["lmms-eval", "vlmevalkit"]


def export(spec: str, split: str, out: Path, harness: Harness, name: str, task: str = "caption") -> list[Path]:
    """Write a split for a harness into `out` and return the files written.

    name: of the task there, lower-case letters, digits and "_". task: a key of PROMPTS. Pairs without a text of the
    task are left out. Raises InputError for a bad name, a split without texts, and images that cannot be opened.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(f"--name '{name}': expected lower-case letters, digits and '_', a letter first")
    source = open_source(spec)
    pairs = [pair for pair in source.select(split) if texts_of(pair, task)]
    if not pairs:
        raise InputError(f"{spec}: no pair of split '{split}' has a text for the task '{task}'")
    rows = track(_rows(source, pairs, task), "exporting", len(pairs))
    return _lmms_eval(rows, out, name, task) if harness == "lmms-eval" else _vlmevalkit(rows, out, name)


def _rows(source: Source, pairs: list[ImagePair], task: str) -> Iterator[dict[str, Any]]:
    for pair in pairs:
        opened = source.open(pair)
        yield {
            "id": pair.id,
            "before": _png(opened.before),
            "after": _png(opened.after),
            "question": PROMPTS[task],
            "references": texts_of(pair, task),
            "changed": pair.changed,
        }


def _lmms_eval(rows: Iterator[dict[str, Any]], out: Path, name: str, task: str) -> list[Path]:
    import pyarrow
    import pyarrow.parquet

    listed = list(rows)
    for row in listed:
        for side in ("before", "after"):
            row[side] = {"bytes": row[side], "path": f"{row['id']}_{side}.png"}
    data = out / f"{name}.parquet"
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    kinds = [("id", pyarrow.string()), ("before", image), ("after", image), ("question", pyarrow.string()),
             ("references", pyarrow.list_(pyarrow.string())), ("changed", pyarrow.bool_())]  # fmt: skip
    # So `datasets` decodes the two images, and the harness leaves them out of its logs.
    schema = pyarrow.schema(kinds, metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})})
    with atomic_write(data, "wb") as handle:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(listed, schema), handle)
    written = [data]
    words = {"NAME": name, "DATA": str(data.resolve()), "TOKENS": str(LONGEST[task])}
    for template, target in (("lmms_eval_task.txt", f"{name}.yaml"), ("lmms_eval_utils.txt", f"{name}_utils.py")):
        written.append(_filled(template, out / target, words))
    return written


def _vlmevalkit(rows: Iterator[dict[str, Any]], out: Path, name: str) -> list[Path]:
    data = out / f"{name}.tsv"
    with atomic_write(data) as handle:
        table = csv.writer(handle, delimiter="\t", lineterminator="\n")
        table.writerow(["index", "id", "image", "image_path", "question", "answer"])
        for index, row in enumerate(rows):
            images = [base64.b64encode(row[side]).decode("ascii") for side in ("before", "after")]
            paths = [f"{index}_{side}.png" for side in ("before", "after")]
            # Several images and answers: the harness reads Python lists from their text.
            table.writerow([index, row["id"], images, paths, row["question"], row["references"]])
    words = {"NAME": name, "DATA": data.name, "CLASS": "".join(part.title() for part in name.split("_"))}
    return [data, _filled("vlmevalkit_dataset.txt", out / f"{name}.py", words)]


def _filled(template: str, target: Path, words: dict[str, str]) -> Path:
    text = (files("rsiccllm.benchmark") / "harness" / template).read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    with atomic_write(target) as handle:
        handle.write(text)
    return target


def _png(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
