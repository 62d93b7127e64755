"""`dllm`: the commands. What needs torch is imported when a command runs, so that help comes at once."""

from __future__ import annotations

from typing import Annotated

import typer

from dllm.cli.app import serve_page as page
from dllm.cli.bench import bench
from dllm.cli.chat import CHAT_EXAMPLES, chat
from dllm.cli.decode import EXAMPLES, decode
from dllm.cli.eval import EVAL_EXAMPLES, run_evaluation
from dllm.cli.listing import info, models, recipes
from dllm.cli.parts import parts
from dllm.cli.replay import REPLAY_EXAMPLES, replay
from dllm.cli.report import report
from dllm.cli.serve import SERVE_EXAMPLES, serve
from dllm.cli.sweep import SWEEP_EXAMPLES, sweep
from dllm.cli.train import TRAIN_EXAMPLES, train
from dllm.cli.tune import TUNE_EXAMPLES, tune
from dllm.version import VERSION

app = typer.Typer(
    name="dllm",
    help="Decode with masked and block diffusion language models: any policy, scheduler and cache, any family.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=EXAMPLES)(decode)
app.command(epilog=CHAT_EXAMPLES)(chat)
app.command()(recipes)
app.command()(parts)
app.command()(models)
app.command()(info)
app.command(epilog=TRAIN_EXAMPLES)(train)
app.command()(bench)
app.command("app")(page)
app.command("eval", epilog=EVAL_EXAMPLES)(run_evaluation)
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
