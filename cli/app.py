"""`dllm app`: the page in a browser."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from typing import Annotated

import typer

from dllm.errors import ConfigError

from .error_messages import print_message, report_errors

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve_page(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A folder, a Hub id, or `embedded`, the small model in the package; give several to choose from on "
            "the page. NAME=FAMILY where config.json does not tell. A plain causal model can race a diffusion model.",
            show_default="embedded",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any that is free.")] = 10086,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or auto.", show_default=False)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …", show_default=False)] = None,
    longest: Annotated[int, typer.Option(help="Most new tokens that a visitor may ask for.")] = 1024,
) -> None:
    """Talk to models on a page, watch them denoise, replay a run step by step, and race two strategies.

    The page fetches nothing from outside. It has no password: whoever reaches the address may use the models, and only
    those named here. Visitors take turns, and do not see each other.
    """
    with report_errors():
        if missing := [name for name in ("gradio",) if find_spec(name) is None]:
            raise ConfigError(f"the page needs the package {missing[0]}: pip install 'dllm[web]'")
        from dllm.integrations.web.model_library import ModelLibrary, NamedCheckpoint
        from dllm.integrations.web.serving import format_address, make_web_server, open_listening_socket

        if longest < 1:
            raise ConfigError(f"--longest {longest}: must be at least 1")
        library = ModelLibrary(
            [NamedCheckpoint.read(name) for name in model or ["embedded"]],
            {"dtype": dtype, "device": device, "pack": None},
            longest,
        )
        with open_listening_socket(host, port) as found:
            running = make_web_server(library, found)
            print_message(f"dllm app: {format_address(found)}   (Ctrl-C ends it)", "bold")
            if host not in LOOPBACK:
                print_message("anyone who can reach this address can use the models: there is no password", "yellow")
            with suppress(KeyboardInterrupt):
                running.run(sockets=[found])
