"""The one command, `rsiccllm`. It holds no logic: each command calls one function and prints what it returns."""

from __future__ import annotations

import os
import threading
import warnings
from typing import Annotated

import typer

from rsiccllm import __version__
from rsiccllm.cli import bench, caption, data, demo, doctor, rasters, rsici, rsicp, serve, train
from rsiccllm.cli.shared import say
from rsiccllm.errors import InputError

app = typer.Typer(
    help="Train and use vision-language models that say what changed between two images of one place.",
    epilog="To begin: rsiccllm demo trains a small model in minutes. The path on your own data, in order: data check, "
    "rsici build, train sft, rsicp build, train dnpo, bench run, caption. Each has --help.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# A module may hold one command or a group of them; --help lists them in this order, groups last.
for _module in (caption, rasters, serve, demo, doctor, data, rsici, train, rsicp, bench):
    app.add_typer(_module.app)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    pass


GOES_ON = "what was finished is kept, and a call with more memory (or a smaller batch) goes on"
NO_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "could not create a primitive")
"""How torch says it: CUDA, its allocator on a CPU, C++, oneDNN."""


def main() -> None:
    """Run the command. A user's mistake is one line and status 2; Ctrl-C is status 130; a fault of ours 70."""
    warnings.filterwarnings("ignore", module="PIL")  # of a broken image: the refusal says it in one line
    # TensorBoard writes in a thread; on a full disk its error comes to the main thread too, which tells it.
    threading.excepthook = lambda fault: None if isinstance(fault.exc_value, OSError) else _thread_fault(fault)
    try:
        app(prog_name="rsiccllm")
    except InputError as error:
        _fail(str(error), 2)
    except SystemExit as end:
        if end.code == 130:  # typer makes this of Ctrl-C, and says nothing
            _fail("stopped; call again to go on", 130)
        raise
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error), 2)
    except MemoryError:
        _fail(f"out of memory; {GOES_ON}", 2)
    except Exception as error:
        if isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in NO_MEMORY):
            _fail(f"out of memory ({str(error).splitlines()[0][:120]}); {GOES_ON}", 2)
        if os.environ.get("RSICCLLM_TRACEBACK"):
            raise
        message = str(error).splitlines()[0] if str(error) else ""
        _fail(f"unexpected {type(error).__name__}: {message} (RSICCLLM_TRACEBACK=1 shows where)", 70)


_thread_fault = threading.excepthook


def _fail(message: str, status: int) -> None:
    say(message)
    raise SystemExit(status)
