"""`rsiccllm serve` and `rsiccllm app`."""

from __future__ import annotations

from typing import Annotated

import typer

from rsiccllm.cli.shared import need, quiet

app = typer.Typer()


@app.command("serve")
def serve_command(
    model: Annotated[
        str | None, typer.Option(help="a run's folder, a checkpoint folder or a hub name (default: the one in the box)")
    ] = None,
    host: Annotated[
        str, typer.Option(help="the address to listen on; one that others reach needs a key")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8000,
    name: Annotated[str | None, typer.Option(help="what clients call the model (default: as --model)")] = None,
    urls: Annotated[bool, typer.Option("--allow-urls", help="fetch images from public http(s) addresses too")] = False,
    queue: Annotated[int, typer.Option(min=1, help="requests in hand at once; more get 429")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="requests that go through the model together")] = 16,
    body_bytes: Annotated[int, typer.Option(min=1, help="largest request")] = 16 * 2**20,
    pixels: Annotated[int, typer.Option(min=1, help="largest image, width x height")] = 16_000_000,
    answer_seconds: Annotated[float, typer.Option(help="longest wait for an answer; then 504")] = 60.0,
) -> None:
    """Serve captions by the API of OpenAI.

    /v1/chat/completions takes two images as data URIs, the earlier date first; also /v1/models, /health and /metrics.
    A key that clients must send is read from RSICCLLM_API_KEY. Needs: pip install 'rsiccllm[serve]'.

    \b
    Example:
      rsiccllm serve --port 8000
    """
    need("uvicorn", "prometheus_client", "starlette", extra="serve")
    from rsiccllm.serve.settings import Limits

    limits = Limits(body_bytes, pixels, queue=queue, batch=batch, answer_seconds=answer_seconds)
    quiet()
    from rsiccllm.serve.run import serve

    serve(model, host, port, name, urls, limits)


@app.command("app")
def app_command(
    model: Annotated[
        list[str] | None,
        typer.Option(help="as for caption; given twice, the two can be compared (default: the one in the box)"),
    ] = None,
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one from 7860")] = 7860,
) -> None:
    """Open a page to drop two images on.

    A slider between the dates, the change map on top, caption, confidence and facts; questions; a second model beside
    the first. Needs: pip install 'rsiccllm[app]'.

    \b
    Example:
      rsiccllm app --model runs/levir_sft --model runs/levir_dnpo
    """
    need("gradio", extra="app")
    quiet()
    from rsiccllm.app.page import run_app

    run_app(model or [], host, port)
