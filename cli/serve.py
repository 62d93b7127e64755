"""`dllm serve`: the model behind the API that other programs speak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from dllm.errors import ConfigError

from . import options
from .error_messages import print_message, report_errors
from .options import MODEL, make_loading, make_option

if TYPE_CHECKING:
    from dllm.integrations.server.api import ServerSettings
    from dllm.integrations.server.limits import ServerLimits

SERVE_EXAMPLES = """[bold]Examples[/bold]

dllm serve --model GSAI-ML/LLaDA-8B-Instruct --dtype bfloat16

DLLM_API_KEY=… dllm serve --host 0.0.0.0 --port 8000 --batch-size 32

curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{"messages": \\[{"role": "user", "content": "How many are 3 and 4?"}], "policy": "factor", "f": 1.0, "cache": "dual"}'

[bold]With the openai client[/bold] give the strategy as extra_body: client.chat.completions.create(…, extra_body={"policy": "factor", "f": 1.0}). Its names are those of the options of dllm decode, and it may differ from call to call.

[bold]Paths[/bold] /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics (Prometheus)."""  # noqa: E501

DECODING, NETWORK, LIMITS = ("Decoding", "Where, and for whom", "Limits")


NameOption = Annotated[str | None, make_option(MODEL, "By which calls name the model. Default: --model.")]
RecipeOption = Annotated[
    str | None,
    make_option(
        DECODING, "The recipe, or 'Strategy(…)', of calls that name none. Default: that of the model's family."
    ),
]
BatchSizeOption = Annotated[int, make_option(DECODING, "Rows of one strategy decoded together.", show_default=True)]
StrategiesOption = Annotated[
    int, make_option(DECODING, "Different strategies decoded at a time, in turns.", show_default=True)
]
HostOption = Annotated[str, make_option(NETWORK, "The address to listen at.", show_default=True)]
PortOption = Annotated[int, make_option(NETWORK, "The port; 0: any that is free.", show_default=True, min=0, max=65535)]
ApiKeyOption = Annotated[
    str | None,
    make_option(
        NETWORK,
        "Calls have to bring it. Rather set it in the environment: an argument shows in the process list.",
        envvar="DLLM_API_KEY",
        show_envvar=True,
    ),
]
AllowedHostOption = Annotated[
    list[str] | None,
    make_option(
        NETWORK,
        "Name by which calls may address the server; repeatable. Default: on loopback without a key "
        "localhost alone, so that no web page can call it; else any.",
    ),
]
MaxNewTokensOption = Annotated[int, make_option(LIMITS, "Of calls that do not say.", show_default=True)]
MaxColumnsOption = Annotated[
    int | None, make_option(LIMITS, "Most tokens of prompt and answer. Default: the model's context.")
]
MaxWaitingOption = Annotated[
    int, make_option(LIMITS, "Answers that may wait for a row; more get 429.", show_default=True)
]
MaxBodyOption = Annotated[int, make_option(LIMITS, "Bytes of a call; more get 413.", show_default=True)]
MaxChoicesOption = Annotated[int, make_option(LIMITS, "Answers of one call (prompts times n).", show_default=True)]
LogLevelOption = Annotated[str, make_option(NETWORK, "critical, error, warning, info or debug.", show_default=True)]


def serve(
    model: options.ModelOption = "embedded", name: NameOption = None, dtype: options.DtypeOption = None,
    device: options.DeviceOption = None, device_map: options.DeviceMapOption = None,
    adapter: options.AdapterOption = None, mask_id: options.MaskIdOption = None, family: options.FamilyOption = None,
    recipe: RecipeOption = None, batch_size: BatchSizeOption = 16, strategies: StrategiesOption = 4,
    host: HostOption = "127.0.0.1", port: PortOption = 8000, api_key: ApiKeyOption = None,
    allowed_host: AllowedHostOption = None, max_new_tokens: MaxNewTokensOption = 128,
    max_columns: MaxColumnsOption = None, max_waiting: MaxWaitingOption = 256, max_body: MaxBodyOption = 1 << 20,
    max_choices: MaxChoicesOption = 64, log_level: LogLevelOption = "info",
) -> None:  # fmt: skip
    """Serve a model over HTTP as OpenAI's API has it, each call with a strategy of its own.

    Calls are decoded together, and none waits for another's end. SIGTERM and Ctrl-C finish what was taken and refuse
    what is new; the second time they end at once. Needs the extra `serve`.
    """
    given = dict(locals())
    with report_errors():
        limits = _make_limits(max_waiting, max_body, max_columns, max_choices, max_new_tokens)
        if log_level not in ("critical", "error", "warning", "info", "debug"):
            raise ConfigError(f"--log-level {log_level}: choose from critical, error, warning, info, debug")
        from dllm.integrations.server.api import ServerSettings

        setting = ServerSettings(
            name or model, limits, _check_api_key(api_key), _choose_allowed_hosts(host, api_key, allowed_host), recipe
        )
        loading = make_loading(given) | {"pack": None}
        run_server(model, loading, setting, batch_size, strategies, host, port, log_level)


def _make_limits(waiting: int, body: int, columns: int | None, choices: int, new_tokens: int) -> ServerLimits:
    """Make the limits. Raises ConfigError, also where the server's libraries are not installed."""
    try:
        from dllm.integrations.server.limits import ServerLimits
        from dllm.integrations.server.serving import bind_socket  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"dllm serve needs {error.name}: pip install 'dllm[serve]'") from None
    return ServerLimits(waiting, body, columns=columns, choices=choices, new_tokens=new_tokens)


def _check_api_key(key: str | None) -> str | None:
    """Return the key. Raises ConfigError for one that protects nothing."""
    if key is not None and not key.strip():
        raise ConfigError("--api-key (or DLLM_API_KEY) is empty: anybody could guess it; give a key or none")
    return key


def _choose_allowed_hosts(host: str, key: str | None, allowed: list[str] | None) -> tuple[str, ...] | None:
    """Choose the host names under which the server may be called; None: any."""
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
    """Load the model and serve it; whatever cannot work is refused before the weights are read."""
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
