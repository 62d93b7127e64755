"""`dllm`: the commands. Modules that need torch are imported when a command runs, so that help comes at once."""

from __future__ import annotations

from typing import Annotated

import typer

from dllm.version import VERSION

from .app import serve_page as page
from .bench import bench
from .chat import CHAT_EXAMPLES, chat
from .decode import EXAMPLES, decode
from .eval import EVAL_EXAMPLES, run_evaluation
from .listing import info, models, recipes
from .parts import parts
from .replay import REPLAY_EXAMPLES, replay
from .report import report
from .serve import SERVE_EXAMPLES, serve
from .strategy_command import StrategyCommand
from .sweep import SWEEP_EXAMPLES, sweep
from .train import TRAIN_EXAMPLES, train
from .tune import TUNE_EXAMPLES, tune

app = typer.Typer(
    name="dllm",
    help="Decode with masked and block diffusion language models: any policy, scheduler and cache, any family.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=EXAMPLES, cls=StrategyCommand)(decode)
app.command(epilog=CHAT_EXAMPLES, cls=StrategyCommand)(chat)
app.command()(recipes)
app.command()(parts)
app.command()(models)
app.command()(info)
app.command(epilog=TRAIN_EXAMPLES)(train)
app.command()(bench)
app.command("app")(page)
app.command("eval", epilog=EVAL_EXAMPLES, cls=StrategyCommand)(run_evaluation)
app.command(epilog=SWEEP_EXAMPLES)(sweep)
app.command()(report)
app.command(epilog=SERVE_EXAMPLES)(serve)
app.command(epilog=REPLAY_EXAMPLES)(replay)
app.command(epilog=TUNE_EXAMPLES)(tune)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dllm {VERSION}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version and leave.")
    ] = False,
) -> None:
    pass


def run() -> None:
    """The entry point of the installed command."""
    app()
