from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsiccllm.errors import InputError
from rsiccllm.files import read_jsonl
from rsiccllm.records import INSTRUCTIONS, PAIRS, ImagePair, Instruction
from rsiccllm.rsici.build import BuildSettings, build_rsici, preset_of
from rsiccllm.rsici.command import build_by_rules, task_settings
from rsiccllm.rsici.output import SCHEMA, split_name
from rsiccllm.rsici.place import safe_name
from rsiccllm.rsici.prompts import teacher_prompt
from rsiccllm.rsici.tasks import TASKS, TaskSettings
from rsiccllm.rsici.teachers.base import Ask, Failure
from rsiccllm.sources import open_source

SPEC = "scenes:20,seed=3,size=64,easy=1"


def test_scenes_become_a_folder_that_is_a_source(tmp_path: Path) -> None:
    counts = build_rsici([SPEC], tmp_path, ["caption", "describe"])
    assert counts == {"pairs": 20, "instructions": 40, "left_out": 0, "rejected": 0, "unanswered": 0}
    records = read_jsonl(tmp_path / INSTRUCTIONS, Instruction)
    rendered = {pair.id: pair for pair in open_source(SPEC).pairs}
    for record in records:
        pair = rendered[record.pair]
        assert record.answers == (pair.captions if record.task == "caption" else [pair.description])
        assert record.split == pair.split
    built, source = open_source(f"rsici:{tmp_path}"), open_source(SPEC)
    for pair in built.pairs[:4]:
        one, two = built.open(pair), source.open(rendered[pair.id])
        assert one.before.tobytes() == two.before.tobytes()
        assert one.after.tobytes() == two.after.tobytes()
        assert one.mask is not None
        assert (one.mask == two.mask).all()


def test_a_killed_build_goes_on_and_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    spec = "scenes:60,seed=3,size=64,easy=1"
    build_rsici([spec], tmp_path / "whole")
    command = [sys.executable, "-m", "rsiccllm.cli", "rsici", "build", "--source", spec, "--out", str(tmp_path / "cut")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list((tmp_path / "cut").rglob("*.png"))) < 20:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "SHA256SUMS").exists(), "killed too late to show anything"
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    whole, cut = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "whole", tmp_path / "cut")
    )
    assert cut == whole


def test_what_a_kill_left_half_written_is_swept_away(tmp_path: Path) -> None:
    half = tmp_path / "images" / "scenes" / ".scene_3_000000.before.png.1.1.tmp"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    theirs = tmp_path / "images" / ".notes.tmp"
    theirs.write_bytes(b"of somebody else")
    build_rsici(["scenes:2,size=64"], tmp_path)
    assert list(tmp_path.rglob("*.tmp")) == [theirs]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown task 'poem', expected one of describe, caption, changed"):
        build_rsici([SPEC], tmp_path / "a", ["poem"])
    build_rsici([SPEC], tmp_path / "b")
    with pytest.raises(InputError, match="was built from"):
        build_rsici(["scenes:60,seed=3,size=64,easy=1"], tmp_path / "b")
    with pytest.raises(InputError, match="id 'scenes/scene_3_000000' is in scenes and in scenes"):
        build_rsici([SPEC, SPEC], tmp_path / "c")
    with pytest.raises(InputError, match="unknown kind 'secnes'"):
        build_rsici(["secnes:4"], tmp_path / "d")
    captions = tmp_path / "captions.json"
    entry = {"filename": "a.png", "filepath": "train", "changeflag": 1, "sentences": [{"raw": "a house is built"}]}
    captions.write_text(json.dumps({"images": [entry]}), encoding="utf-8")
    with pytest.raises(InputError, match=r"source 'levir-cc-captions:.*': has annotations alone"):
        build_rsici([f"levir-cc-captions:{captions}"], tmp_path / "e")
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="file"):
        build_rsici([SPEC], file)


def test_a_mistake_leaves_the_folder_free_for_the_call_that_is_right(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        build_rsici([f"levir-cc:{tmp_path / 'none'}"], tmp_path / "out")
    with pytest.raises(InputError, match="in scenes and in scenes"):
        build_rsici([SPEC, SPEC], tmp_path / "out")
    assert build_rsici(["scenes:4,size=64"], tmp_path / "out")["pairs"] == 4


def test_an_image_cut_short_is_refused_and_mended_the_build_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for date in ("A", "B"):
        (tmp_path / "set" / date).mkdir(parents=True)
        for name in ("one", "two"):
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"set/{date}/{name}.png")
    captions = {name: ["a house is built"] for name in ("one", "two")}
    (tmp_path / "set" / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    broken = tmp_path / "set" / "B" / "two.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"B/two.png: truncated or damaged"):
        build_rsici([f"folder:{tmp_path / 'set'}"], tmp_path / "out")
    assert not (tmp_path / "out" / INSTRUCTIONS).exists()
    broken.write_bytes(whole)
    assert build_rsici([f"folder:{tmp_path / 'set'}"], tmp_path / "out")["pairs"] == 2


def test_names_of_odd_ids_do_not_meet_and_stay_inside() -> None:
    ids = ["a", "a/b", "a_b", "../a", "a b", "ä", "." * 3, "x" * 300]
    names = {safe_name(identifier) for identifier in ids}
    assert len(names) == len(ids)
    assert all("/" not in name and not name.startswith(".") and len(name) < 120 for name in names)


def test_captions_of_real_pairs_become_instructions(shared_data: Path, tmp_path: Path) -> None:
    counts = build_rsici([f"levir-cc:{shared_data / 'levir_cc'}"], tmp_path)
    assert counts == {"pairs": 21, "instructions": 21, "left_out": 0, "rejected": 0, "unanswered": 0}
    source = open_source(f"levir-cc:{shared_data / 'levir_cc'}")
    built = read_jsonl(tmp_path / PAIRS, ImagePair)
    for pair in built:
        origin = next(item for item in source.pairs if item.id == pair.id)
        assert (tmp_path / pair.before).read_bytes() == (source.root / origin.before).read_bytes()


class Scripted:
    """A teacher that gives prepared answers and remembers what it was asked. Stands for a model behind an endpoint."""

    name = "scripted"

    def __init__(self, say: Callable[[Ask], list[str] | Failure], stop_after: int | None = None) -> None:
        self.say, self.stop_after, self.asked = say, stop_after, list[Ask]()

    def answer_all(self, asks: Iterable[Ask]) -> Iterator[tuple[Ask, list[str] | Failure]]:
        # Answers come in another order than the asks, as from a server.
        for group in iter(lambda source=iter(asks): list(itertools.islice(source, 5)), []):
            for ask in reversed(group):
                if self.stop_after is not None and len(self.asked) >= self.stop_after:
                    yield ask, Failure("budget", "spent", final=False)
                else:
                    self.asked.append(ask)
                    yield ask, self.say(ask)


def sysu(root: Path, count: int = 12) -> str:
    """Pairs in SYSU-CD's layout; in each third one nothing changed, in the others a square in the top left did."""
    rng = np.random.default_rng(1)
    for side in ("time1", "time2", "label"):
        (root / "train" / side).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        for side in ("time1", "time2"):
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "train" / side / f"{number:05d}.png")
        mask = np.zeros((64, 64), np.uint8)
        if number % 3:
            mask[4:20, 4:20] = 255
        Image.fromarray(mask).save(root / "train" / "label" / f"{number:05d}.png")
    return f"sysu-cd:{root}"


CAPTION = BuildSettings(TaskSettings(("caption",)))
RIGHT = "a house is built in the top left"
WRONG = "a house is built in the bottom right"


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_rejected_answer_is_asked_for_again_with_another_prompt(tmp_path: Path) -> None:
    teacher = Scripted(lambda ask: [WRONG if ask.attempt == 0 else RIGHT])
    counts = build_rsici([sysu(tmp_path / "data")], tmp_path / "out", teacher=teacher, settings=CAPTION)
    assert counts == {"pairs": 12, "instructions": 12, "left_out": 0, "rejected": 8, "unanswered": 0}
    assert len(teacher.asked) == 16  # of the four unchanged pairs nothing is asked
    again = [ask for ask in teacher.asked if ask.attempt]
    assert all("nothing changed" in ask.hint for ask in again)
    first, second = (teacher_prompt(ask)[1] for ask in (teacher.asked[0], again[0]))
    assert first != second
    records = read_jsonl(tmp_path / "out" / INSTRUCTIONS, Instruction)
    told = [record for record in records if record.teacher == "scripted"]
    assert len(told) == 8
    assert all(record.answers == [RIGHT] and record.asked == "v1/caption/1" for record in told)
    assert {record.teacher for record in records if record not in told} == {"rules"}
    rejected = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert [(note["attempt"], note["gate"], note["reason"], note["text"]) for note in rejected] == [
        (0, "facts", "place", WRONG)
    ] * 8
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["rejections"] == {"caption/facts/place": 8}
    assert "| caption/facts/place | 8 |" in (tmp_path / "out/README.md").read_text()


def test_after_two_further_attempts_it_is_left_out_and_counted(tmp_path: Path) -> None:
    teacher = Scripted(lambda ask: [WRONG] if ask.attempt < 2 else Failure("too_long", "10 MB"))
    counts = build_rsici([sysu(tmp_path / "data")], tmp_path / "out", teacher=teacher, settings=CAPTION)
    assert (counts["pairs"], counts["left_out"], counts["rejected"]) == (4, 8, 24)
    assert len(teacher.asked) == 24
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["given_up"] == {"caption": 8}
    assert card["failed"] == {"too_long": 8}


def test_what_was_answered_is_never_asked_again(tmp_path: Path) -> None:
    spec = sysu(tmp_path / "data")
    say = lambda ask: [WRONG if ask.attempt == 0 else f"{RIGHT} {int(ask.pair.id[-5:])}"]  # noqa: E731
    whole, settings = Scripted(say), BuildSettings(TaskSettings(("caption",)), shard=7)
    build_rsici([spec], tmp_path / "whole", teacher=whole, settings=settings)
    asked: list[str] = []
    for stop in (3, 5, 0, 100):
        teacher = Scripted(say, stop)
        counts = build_rsici([spec], tmp_path / "cut", teacher=teacher, settings=settings)
        records = read_jsonl(tmp_path / "cut" / INSTRUCTIONS, Instruction)
        assert len(records) == counts["instructions"]  # what there is can be used in the meantime
        asked += [ask.key for ask in teacher.asked]
        assert (counts["unanswered"] > 0) is (stop < 100)
    assert sorted(asked) == sorted(ask.key for ask in whole.asked)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    idle = Scripted(say)
    assert build_rsici([spec], tmp_path / "cut", teacher=idle, settings=settings) == counts
    assert idle.asked == []


@pytest.mark.parametrize("kill_after", [3, 14])
def test_a_build_killed_while_answers_come_in_ends_as_an_undisturbed_one(tmp_path: Path, kill_after: int) -> None:
    """SIGKILL, in a process of its own, right after an answer was journaled and in the middle of the next line."""
    spec = sysu(tmp_path / "data")
    script = tmp_path / "run.py"
    script.write_text(KILLED.format(spec=spec, out=str(tmp_path / "cut"), right=RIGHT, wrong=WRONG), encoding="utf-8")
    run = [sys.executable, str(script)]
    assert subprocess.run([*run, str(kill_after)], stderr=subprocess.DEVNULL, check=False).returncode == -signal.SIGKILL
    journal = tmp_path / "cut" / "answers.journal.jsonl"
    kept = journal.read_bytes().count(b"\n")
    assert kept == kill_after
    with journal.open("ab") as file:
        file.write(b'{"key": "train_00001/caption/1", "answ')  # a line that was cut short
    done = subprocess.run([*run, "0"], stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert int(done.stdout) == 16 - kept
    teacher = Scripted(lambda ask: [WRONG if ask.attempt == 0 else RIGHT])
    build_rsici([spec], tmp_path / "whole", teacher=teacher, settings=CAPTION)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


KILLED = """
import os, signal, sys
from pathlib import Path
from rsiccllm.rsici.build import BuildSettings, build_rsici
from rsiccllm.rsici.tasks import TaskSettings

class Teacher:
    name = "scripted"
    asked = 0
    def answer_all(self, asks):
        for ask in asks:
            if self.asked and self.asked == int(sys.argv[1]):
                os.kill(os.getpid(), signal.SIGKILL)
            self.asked += 1
            yield ask, ["{wrong}" if ask.attempt == 0 else "{right}"]

teacher = Teacher()
build_rsici(["{spec}"], Path("{out}"), teacher=teacher, settings=BuildSettings(TaskSettings(("caption",))))
print(teacher.asked)
"""


def test_shards_parquet_and_checksums(tmp_path: Path) -> None:
    import datasets

    settings = BuildSettings(TaskSettings(TASKS), shard=40)
    out = tmp_path / "out"
    spec = sysu(tmp_path / "data")
    for side in ("time1", "time2", "label"):
        image = tmp_path / "data" / "train" / side / "00004.png"
        (tmp_path / "data" / "test" / side).mkdir(parents=True)
        image.rename(tmp_path / "data" / "test" / side / image.name)
    counts = build_rsici([spec], out, settings=settings)
    names = sorted(path.name for path in out.glob("instructions*"))
    assert names == [f"instructions-{number:05d}.jsonl" for number in range(-(-counts["instructions"] // 40))]
    assert len(names) > 1
    records = read_jsonl(out / INSTRUCTIONS, Instruction)
    assert len(records) == counts["instructions"]
    table = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))  # as its README.md says
    assert set(table) == {record.split for record in records} == {"train", "test"}
    for split, rows in table.items():
        own = [record for record in records if record.split == split]
        for row, record in zip(rows, own, strict=True):
            assert Instruction.model_validate({k: v for k, v in row.items() if v is not None}) == record
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=out, check=False).returncode == 0
    listed = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert listed == contents(out).keys() - {"SHA256SUMS"}
    (out / names[0]).unlink()
    with pytest.raises(InputError, match=r"instructions-00000.jsonl: no such file"):
        read_jsonl(out / INSTRUCTIONS, Instruction)


@pytest.mark.parametrize(("split", "name"), [("train", "train"), ("my split-2", "my_split_2"), ("all", "all_")])
def test_splits_have_names_that_datasets_takes(split: str, name: str) -> None:
    import datasets

    assert split_name(split) == name
    assert str(datasets.NamedSplit(name)) == name


def test_an_empty_mask_of_buildings_never_comes_to_say_that_nothing_changed(tmp_path: Path) -> None:
    """Not even through a set that was built: what its masks leave out is not known there."""
    for side, value in (("A", 60), ("B", 90), ("label", 0)):
        (tmp_path / "set" / "train" / side).mkdir(parents=True)
        Image.fromarray(np.full((64, 64), value, np.uint8)).save(tmp_path / "set" / "train" / side / "train_1.png")
    tasks = BuildSettings(TaskSettings(("where",)))
    build_rsici([f"levir-cd:{tmp_path / 'set'}"], tmp_path / "one", settings=tasks)
    (pair,) = open_source(f"rsici:{tmp_path / 'one'}").pairs
    assert pair.changed is None
    with pytest.raises(InputError):  # there is nothing to be said
        build_rsici([f"rsici:{tmp_path / 'one'}"], tmp_path / "two", settings=BuildSettings(TaskSettings(("changed",))))


def test_parquet_has_every_field() -> None:
    assert SCHEMA.names == [field.alias or name for name, field in Instruction.model_fields.items()]


def test_several_sets_and_tiles(tmp_path: Path) -> None:
    fake = {"levir-cd": ("A", "B", "label"), "s2looking": ("Image1", "Image2", "label")}
    for kind, sides in fake.items():
        for number, side in enumerate(sides):
            (tmp_path / kind / "train" / side).mkdir(parents=True)
            pixels = np.zeros((512, 300), np.uint8)
            pixels[300:340, 20:60] = 255 if side == "label" else 50 * number + 40
            Image.fromarray(pixels).save(tmp_path / kind / "train" / side / "train_1.png")
    specs = [f"{kind}:{tmp_path / kind}" for kind in fake]
    build_rsici(specs, tmp_path / "out", settings=BuildSettings(TaskSettings(("where",))))
    pairs = read_jsonl(tmp_path / "out" / PAIRS, ImagePair)
    assert len(pairs) == 8
    assert pairs[0].id == "levir-cd/train_1_0000_0000"
    built = open_source(f"rsici:{tmp_path / 'out'}")
    for pair in built.pairs:
        assert built.size_of(pair) == (256, 256)
        marked = built.mask(pair)
        assert marked is not None
        assert bool(marked.any()) is ("_0256_0000" in pair.id or ("_0256_0044" in pair.id))
        assert pair.changed is (True if marked.any() else None)  # the rest of a building mask proves nothing


@pytest.mark.parametrize("kind", ["sysu-cd", "cdd"])
def test_a_mask_of_another_size_is_refused(tmp_path: Path, kind: str) -> None:
    sides = {"sysu-cd": ("time1", "time2", "label"), "cdd": ("A", "B", "OUT")}[kind]
    for side in sides:
        (tmp_path / "train" / side).mkdir(parents=True)
        size = (40, 40) if side == sides[2] else (48, 40)
        Image.new("L", size, 255).save(tmp_path / "train" / side / "1.png")
    with pytest.raises(InputError, match=rf"{sides[2]}/1.png: 40x40 pixels, but its images have 48x40"):
        build_rsici([f"{kind}:{tmp_path}"], tmp_path / "out")


def test_presets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected --source levir-cd:DIR --source sysu-cd:DIR, got scenes"):
        preset_of("paper-train", ["scenes:4"])
    assert preset_of("paper-test-out", ["cdd:a", "s2looking:b"]) == (("describe",), "test")


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    mix = ["cdd:a", "s2looking:b"]
    asked, split = task_settings(mix, "caption", "", "paper-test-out", None, 0, "qwen3", 5)
    assert (asked.tasks, asked.boxes, asked.seed, split) == (("describe",), "qwen3", 5, "test")
    with pytest.raises(InputError, match="--split train: --preset paper-test-out takes the split 'test'"):
        task_settings(mix, "caption", "", "paper-test-out", "train", 0, "qwen3", 5)
    with pytest.raises(InputError, match="--dry-run: the rules ask nobody"):
        build_by_rules([SPEC], tmp_path / "out", BuildSettings(), dry=True)
    assert not (tmp_path / "out").exists()


def test_texts_of_every_captioned_set_become_instructions(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sources"))
    try:
        import fakes
    finally:
        sys.path.pop(0)
    for kind, make in (
        ("second-cc", fakes.second_cc), ("whu-cdc", fakes.whu_cdc), ("dubai-cc", fakes.dubai_cc),
        ("rscc", fakes.rscc), ("changechat", fakes.changechat),
    ):  # fmt: skip
        make(tmp_path / kind)
        build_rsici(
            [f"{kind}:{tmp_path / kind}"], tmp_path / f"{kind}_out", settings=BuildSettings(TaskSettings(TASKS))
        )
        records = read_jsonl(tmp_path / f"{kind}_out" / INSTRUCTIONS, Instruction)
        for pair in open_source(f"{kind}:{tmp_path / kind}").pairs:
            own = [record for record in records if record.pair == pair.id and record.teacher == "source"]
            said = {record.task: record.answers for record in own}
            if pair.captions:
                assert said["caption"] == pair.captions
            if pair.description:
                assert said["describe"] == [pair.description]
            assert sum(record.task == "dialogue" for record in own) >= len(pair.dialogues)


def test_five_real_sets_are_built_and_no_text_is_refused(shared_data: Path, tmp_path: Path) -> None:
    kinds = {"levir_cd": "levir-cd", "xbd_mexico": "xbd", "dsifn": "folder", "egy_bcd": "folder", "sztaki": "folder"}
    specs = [f"{kind}:{shared_data / name}" for name, kind in kinds.items()]
    counts = build_rsici(specs, tmp_path, settings=BuildSettings(TaskSettings(TASKS)))
    assert (counts["pairs"], counts["left_out"], counts["rejected"]) == (196, 1, 0)
    records = read_jsonl(tmp_path / INSTRUCTIONS, Instruction)
    damaged = [record for record in records if record.source == "xbd" and record.task == "order"]
    assert len(damaged) == 6
    assert all("damaged" in record.prompt for record in damaged)
    levir = [record for record in records if record.source == "levir-cd" and record.task == "changed"]
    assert sorted({(record.changed, record.answers[0]) for record in levir}, key=str) == [(None, "No."), (True, "Yes.")]
    for pair in open_source(f"rsici:{tmp_path}").pairs[::20]:
        assert open_source(f"rsici:{tmp_path}").open(pair).before.size <= (256, 256)


def test_nothing_of_the_users_is_written_over(tmp_path: Path) -> None:
    """A hand-made folder is no build of ours: it is not built into, and shards of other names stay."""
    own = tmp_path / "own"
    build_rsici(["scenes:4,seed=1,size=64,easy=1"], own)
    (own / "build.json").unlink()
    held = {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=r"holds .*pairs\.jsonl.* and no build\.json"):
        build_rsici([f"rsici:{own}"], own)
    assert {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()} == held
    out = tmp_path / "out"
    out.mkdir()
    (out / "instructions-mine.jsonl").write_text("{}")
    build_rsici(["scenes:4,seed=1,size=64,easy=1"], out)
    assert (out / "instructions-mine.jsonl").read_text() == "{}"


def test_a_build_does_not_go_on_over_other_sources(tmp_path: Path) -> None:
    """The answers of one half would be of other captions and masks than those of the other."""
    for side in ("A", "B"):
        (tmp_path / "set" / side).mkdir(parents=True)
        for name in "ab":
            Image.fromarray(np.full((64, 64, 3), ord(name), np.uint8)).save(tmp_path / "set" / side / f"{name}.png")
    captions = tmp_path / "set" / "captions.json"
    captions.write_text('{"a.png": ["a house is built"], "b.png": ["a road is built"]}')
    spec, out = f"folder:{tmp_path / 'set'}", tmp_path / "out"
    build_rsici([spec], out)
    (out / "SHA256SUMS").unlink()  # as if it had been stopped before its end
    assert build_rsici([spec], out)["pairs"] == 2
    (out / "SHA256SUMS").unlink()
    captions.write_text('{"a.png": ["a house is removed"], "b.png": ["a road is built"]}')
    with pytest.raises(InputError, match="its sources have changed since it was begun"):
        build_rsici([spec], out)
