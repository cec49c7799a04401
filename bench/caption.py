"""Captions a second of one model: a plain loop of generate, one pair at a time, and the captioner in batches; then our
server and `transformers serve` under the same load of concurrent requests, with the times of single requests.

    python bench/caption.py [--model MODEL] [--pairs 96] [--requests 128] [--flight 16]
    python bench/caption.py --cold 5

--cold: instead, seconds from the start of a new process to its end, for one pair: `rsiccllm caption` as it answers by
default and once, and the plain loop as a script; in turns, so many of each.

Each way is warmed first, and the loop and the batches take turns, the best of --rounds rounds each. Beside captions a
second the processor time of each is printed, which says more on a machine that others use. The answers of every way are
compared with the loop's. `transformers serve` needs its own extra (fastapi, uvicorn); it is left out, in words, where
it does not start.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import torch
from PIL import Image

from rsiccllm import Captioner
from rsiccllm.caption.captioner import LONGEST, model_name
from rsiccllm.pairs import OpenedPair
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources import open_source

# `transformers serve` with our classes known to it, and our processor, which needs no video processor.
PEER = (
    "import sys, rsiccllm.model.processor; from rsiccllm.model.vlm import PairQwen2_5_VL; "
    "import transformers.cli.serving.model_manager as manager; from transformers.cli.transformers import main; "
    "manager.transformers = sys.modules['transformers']; manager.transformers.PairQwen2_5_VL = PairQwen2_5_VL; "
    "from transformers.models.auto import modeling_auto as auto; "
    "auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES['rsiccllm_qwen2_5_vl'] = 'PairQwen2_5_VL'; "
    "sys.argv = ['transformers', 'serve', *sys.argv[1:]]; main()"
)


@torch.inference_mode()
def loop(captioner: Captioner, pairs: Sequence[OpenedPair]) -> list[str]:
    """What a reader of transformers' documentation would write: processor, generate, decode, pair by pair."""
    texts = []
    for pair in pairs:
        text = captioner.processor.prompt_text(PROMPTS["caption"], 2)
        inputs = captioner.processor(text=[text], images=[[pair.before, pair.after]], return_tensors="pt")
        output = captioner.model.generate(
            **inputs.to(captioner.model.device), max_new_tokens=LONGEST["caption"], do_sample=False
        )
        new = output[:, inputs["input_ids"].shape[1] :]
        texts.append(captioner.processor.batch_decode(new, skip_special_tokens=True)[0].strip())
    return texts


def uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def body(name: str, pair: OpenedPair) -> bytes:
    """One request. Greedy, for the peer's default is to draw."""
    content = [{"type": "image_url", "image_url": {"url": uri(image)}} for image in (pair.before, pair.after)]
    message = {"role": "user", "content": [*content, {"type": "text", "text": PROMPTS["caption"]}]}
    asked = {"model": name, "messages": [message], "max_tokens": LONGEST["caption"], "temperature": 0}
    return json.dumps(asked).encode()


def load(url: str, bodies: Sequence[bytes], requests: int, flight: int) -> tuple[float, list[float], list[str]]:
    """(requests a second, seconds of each, texts) of `requests` requests, `flight` at a time."""
    limits = httpx2.Limits(max_connections=flight)
    with httpx2.Client(timeout=600, limits=limits, trust_env=False) as client, ThreadPoolExecutor(flight) as pool:

        def one(number: int) -> tuple[float, str]:
            begin = time.perf_counter()
            answer = client.post(
                f"{url}/v1/chat/completions", content=bodies[number % len(bodies)],
                headers={"Content-Type": "application/json"},
            )  # fmt: skip
            answer.raise_for_status()
            text = answer.json()["choices"][0]["message"]["content"]
            return time.perf_counter() - begin, text.strip()

        list(pool.map(one, range(flight)))  # warm
        begin = time.perf_counter()
        done = list(pool.map(one, range(requests)))
        seconds = time.perf_counter() - begin
    return requests / seconds, [took for took, _ in done], [text for _, text in done]


def serving(command: Sequence[str], port: int, bodies: Sequence[bytes], requests: int, flight: int,
            truth: Sequence[str], name: str) -> float | None:  # fmt: skip
    """Start a server, put the load on it, print a line. None where it does not come up."""
    # What it says goes to a file: a pipe that nobody reads would fill up and stop it.
    with tempfile.TemporaryFile("w+") as said:
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, text=True)
        try:
            fault = waiting(server, port)
            if fault is None:
                rate, times, texts = load(f"http://127.0.0.1:{port}", bodies, requests, flight)
        except httpx2.HTTPError as error:
            fault = str(error).splitlines()[0][:150]
        finally:
            server.kill()
            server.wait()
        if fault is not None:
            said.seek(0)
            print(f"{name}: {fault} ({(said.read().strip().splitlines() or ['no word'])[-1][:120]})")
            return None
    times.sort()
    same = sum(text == truth[number % len(truth)] for number, text in enumerate(texts))
    p50, p95 = (times[int(share * (len(times) - 1))] for share in (0.5, 0.95))
    print(f"{name:<32}{rate:>10.2f}/s   p50 {p50:.2f} s   p95 {p95:.2f} s   same as the loop's: {same}/{len(texts)}")
    return rate


def waiting(server: subprocess.Popen[str], port: int) -> str | None:
    """Wait until a server answers; why it does not, or None."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if server.poll() is not None:
            return "did not start"
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/health", timeout=2, trust_env=False).status_code < 500:
                return None
        except httpx2.HTTPError:
            pass
        time.sleep(0.2)
    return "did not answer within 120 s"


SCRIPT = """
import sys, torch
from PIL import Image
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
name, prompt, limit, *images = sys.argv[1:]
processor, model = load_processor(name), load_model(name)
text = processor.prompt_text(prompt, 2)
inputs = processor(text=[text], images=[[Image.open(image) for image in images]], return_tensors="pt")
with torch.inference_mode():
    output = model.eval().generate(**inputs, max_new_tokens=int(limit), do_sample=False)
print(processor.batch_decode(output[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)[0].strip())
"""
"""The loop for one pair, as a program of its own."""


def cold(name: str, pair: OpenedPair, times: int) -> None:
    """Print a line a way: the median and the ends of its times from a cold start, and what it said."""
    with tempfile.TemporaryDirectory() as folder:
        images = [f"{folder}/{date}.png" for date in ("before", "after")]
        for image, path in zip((pair.before, pair.after), images, strict=True):
            image.save(path)
        command = [sys.executable, "-m", "rsiccllm.cli", "caption", *images, "--model", name]
        ways = {
            "rsiccllm caption": command,
            "rsiccllm caption --candidates 1": [*command, "--candidates", "1"],
            "a script with generate": [
                sys.executable, "-c", SCRIPT, name, PROMPTS["caption"], str(LONGEST["caption"]), *images
            ],
        }  # fmt: skip
        took: dict[str, list[float]] = {way: [] for way in ways}
        said = {}
        for _ in range(times):
            for way, words in ways.items():
                begin = time.perf_counter()
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                took[way].append(time.perf_counter() - begin)
                said[way] = done.stdout.strip()
    for way, seconds in took.items():
        seconds.sort()
        print(f"{way:<32}{seconds[len(seconds) // 2]:>7.2f} s   {seconds[0]:.2f} to {seconds[-1]:.2f}   {said[way]}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


def main() -> None:
    """Print a line a way and the two ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: the model in the box")
    parser.add_argument("--data", default="scenes:400,seed=77,size=224", help="pairs to caption (its test split)")
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--flight", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-servers", action="store_true")
    parser.add_argument("--cold", type=int, default=0, metavar="TIMES")
    options = parser.parse_args()
    name = str(Path(model_name(options.model)).resolve())
    source = open_source(options.data)
    pairs = [source.open(pair) for pair in source.select("test")[: options.pairs]]
    if options.cold:
        cold(name, pairs[0], options.cold)
        return
    captioner = Captioner.load(name)
    print(f"{len(pairs)} pairs of {pairs[0].before.size[0]} px, {torch.get_num_threads()} threads, "
          f"{captioner.model.device}, load of the machine {os.getloadavg()[0]:.1f}")  # fmt: skip
    loop(captioner, pairs[:4])
    list(captioner.caption_all(pairs[: options.batch], options.batch))
    best = {"loop": 0.0, "batched": 0.0}
    spent = {"loop": float("inf"), "batched": float("inf")}
    for _ in range(options.rounds):
        begin, used = time.perf_counter(), time.process_time()
        truth = loop(captioner, pairs)
        best["loop"] = max(best["loop"], len(pairs) / (time.perf_counter() - begin))
        spent["loop"] = min(spent["loop"], time.process_time() - used)
        begin, used = time.perf_counter(), time.process_time()
        texts = [result.caption for result in captioner.caption_all(pairs, options.batch)]
        best["batched"] = max(best["batched"], len(pairs) / (time.perf_counter() - begin))
        spent["batched"] = min(spent["batched"], time.process_time() - used)
    same = sum(a == b for a, b in zip(truth, texts, strict=True))
    print(f"{'plain loop of generate':<32}{best['loop']:>10.2f}/s")
    print(f"{f'captioner, batches of {options.batch}':<32}{best['batched']:>10.2f}/s   "
          f"{best['batched'] / best['loop']:.2f} times the loop   same captions: {same}/{len(pairs)}")  # fmt: skip
    print(f"processor time a caption: loop {1000 * spent['loop'] / len(pairs):.0f} ms, batches "
          f"{1000 * spent['batched'] / len(pairs):.0f} ms")  # fmt: skip
    if options.no_servers:
        return
    ports = free_port(), free_port()
    ours = serving(
        [sys.executable, "-m", "rsiccllm.cli", "serve", "--model", name, "--name", "m", "--port", str(ports[0])],
        ports[0], [body("m", pair) for pair in pairs], options.requests, options.flight, truth, "rsiccllm serve",
    )  # fmt: skip
    theirs = serving(
        [sys.executable, "-c", PEER, name, "--port", str(ports[1]), "--host", "127.0.0.1", "--device", "cpu",
         "--dtype", "float32"],  # ours computes so on a CPU; the checkpoint's bfloat16 can be many times slower
        ports[1], [body(name, pair) for pair in pairs], options.requests, options.flight, truth, "transformers serve",
    )  # fmt: skip
    if ours and theirs:
        print(f"rsiccllm serve is {ours / theirs:.2f} times transformers serve at {options.flight} in flight")


if __name__ == "__main__":
    main()
