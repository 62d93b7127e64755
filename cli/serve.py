"""`dllm serve`: the model behind the API that other programs speak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dllm.cli.error_messages import print_message, report_errors
from dllm.errors import ConfigError

if TYPE_CHECKING:
    from dllm.integrations.server.api import ServerSettings
    from dllm.integrations.server.limits import ServerLimits

SERVE_EXAMPLES = """[bold]Examples[/bold]

dllm serve --model GSAI-ML/LLaDA-8B-Instruct --dtype bfloat16

DLLM_API_KEY=… dllm serve --host 0.0.0.0 --port 8000 --batch-size 32

curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{"messages": \\[{"role": "user", "content": "How many are 3 and 4?"}], "policy": "factor", "f": 1.0, "cache": "dual"}'

[bold]With the openai client[/bold] give the strategy as extra_body: client.chat.completions.create(…, extra_body={"policy": "factor", "f": 1.0}). Its names are those of the options of dllm decode, and it may differ from call to call.

[bold]Paths[/bold] /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics (Prometheus)."""  # noqa: E501

MODEL, HOW, WHERE, LIMITS = ("Model", "Decoding", "Where, and for whom", "Limits")


def _make_option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def serve(
    model: Annotated[str, _make_option(MODEL, "A folder, a Hub id, or `embedded`.")] = "embedded",
    name: Annotated[str | None, _make_option(MODEL, "By which calls name the model. Default: --model.")] = None,
    dtype: Annotated[str | None, _make_option(MODEL, "float32, bfloat16, float16 or auto.")] = None,
    device: Annotated[str | None, _make_option(MODEL, "cpu, cuda, cuda:1, … Default: cuda where there is one.")] = None,
    device_map: Annotated[str | None, _make_option(MODEL, "Spread the weights, e.g. auto; instead of --device.")] = None,
    adapter: Annotated[str | None, _make_option(MODEL, "A PEFT adapter: folder or Hub id.")] = None,
    mask_id: Annotated[int | None, _make_option(MODEL, "The mask token, instead of the checkpoint's.")] = None,
    family: Annotated[str | None, _make_option(MODEL, "The family, where config.json does not tell.")] = None,
    recipe: Annotated[
        str | None,
        _make_option(HOW, "The recipe, or 'Strategy(…)', of calls that name none. Default: that of the model's family."),
    ] = None,
    batch_size: Annotated[int, _make_option(HOW, "Rows of one strategy decoded together.")] = 16,
    strategies: Annotated[int, _make_option(HOW, "Different strategies decoded at a time, in turns.")] = 4,
    host: Annotated[str, _make_option(WHERE, "The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, _make_option(WHERE, "The port; 0: any that is free.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None,
        _make_option(
            WHERE, "Calls have to bring it. Rather set it in the environment: an argument shows in the process list.",
            envvar="DLLM_API_KEY", show_envvar=True,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        _make_option(
            WHERE, "Name by which calls may address the server; repeatable. Default: on loopback without a key "
            "localhost alone, so that no web page can call it; else any.",
        ),
    ] = None,
    max_new_tokens: Annotated[int, _make_option(LIMITS, "Of calls that do not say.")] = 128,
    max_columns: Annotated[
        int | None, _make_option(LIMITS, "Most tokens of prompt and answer. Default: the model's context.")
    ] = None,
    max_waiting: Annotated[int, _make_option(LIMITS, "Answers that may wait for a row; more get 429.")] = 256,
    max_body: Annotated[int, _make_option(LIMITS, "Bytes of a call; more get 413.")] = 1 << 20,
    max_choices: Annotated[int, _make_option(LIMITS, "Answers of one call (prompts times n).")] = 64,
    log_level: Annotated[str, _make_option(WHERE, "critical, error, warning, info or debug.")] = "info",
) -> None:  # fmt: skip
    """Serve a model over HTTP as OpenAI's API has it, each call with a strategy of its own.

    Calls are decoded together, and none waits for another's end. SIGTERM and Ctrl-C finish what was taken and refuse
    what is new; the second time they end at once. Needs the extra `serve`.
    """
    with report_errors():
        limits = _make_limits(max_waiting, max_body, max_columns, max_choices, max_new_tokens)
        if log_level not in ("critical", "error", "warning", "info", "debug"):
            raise ConfigError(f"--log-level {log_level}: choose from critical, error, warning, info, debug")
        from dllm.integrations.server.api import ServerSettings

        setting = ServerSettings(
            name or model, limits, _check_api_key(api_key), _choose_allowed_hosts(host, api_key, allowed_host), recipe
        )
        loading = {
            "dtype": dtype, "device": device, "device_map": device_map, "adapter": adapter, "mask_id": mask_id,
            "family": family, "pack": None,
        }  # fmt: skip
        run_server(model, loading, setting, batch_size, strategies, host, port, log_level)


def _make_limits(waiting: int, body: int, columns: int | None, choices: int, new_tokens: int) -> ServerLimits:
    """The limits that were given. Raises ConfigError, also where the server's libraries are not installed."""
    try:
        from dllm.integrations.server.limits import ServerLimits
        from dllm.integrations.server.serving import bind_socket  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"dllm serve needs {error.name}: pip install 'dllm[serve]'") from None
    return ServerLimits(waiting, body, columns=columns, choices=choices, new_tokens=new_tokens)


def _check_api_key(key: str | None) -> str | None:
    """The key. Raises ConfigError for one that protects nothing."""
    if key is not None and not key.strip():
        raise ConfigError("--api-key (or DLLM_API_KEY) is empty: anybody could guess it; give a key or none")
    return key


def _choose_allowed_hosts(host: str, key: str | None, allowed: list[str] | None) -> tuple[str, ...] | None:
    """By which names the server may be called."""
    from dllm.integrations.server.serving import LOCAL, is_loopback_host

    if allowed:
        return tuple(name.lower() for name in allowed)
    return (*LOCAL, host) if is_loopback_host(host) and key is None else None


def run_server(
    model: str,
    loading: dict[str, Any],
    setting: ServerSettings,
    rows: int,
    runs: int,
    host: str,
    port: int,
    log_level: str,
) -> None:
    """Load the model and serve it. What cannot work is said before the weights are read."""
    from dllm.integrations.server.engine import ServerEngine
    from dllm.integrations.server.serving import bind_socket, is_loopback_host, serve_on_socket

    found = bind_socket(host, port)
    if not is_loopback_host(host) and setting.key is None:
        print_message(
            f"warning: {host} can be reached from other machines, and there is no --api-key: anybody may call",
            "bold yellow",
        )
    from dllm.compose.options import Options
    from dllm.models import load

    loaded = load(model, **loading)
    engine = ServerEngine(loaded, rows, runs, setting.limits.waiting)
    Options(recipe=setting.recipe).strategy(loaded, setting.limits.new_tokens)
    address, bound = found.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    print_message(f"serving {setting.name} at http://{shown}:{bound}/v1 (Ctrl-C ends)")
    serve_on_socket(engine, setting, found, log_level)
