"""A conversation in the terminal: messages, answers, and the commands in between."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dllm.errors import DllmError

from .chat_settings import ChatSettings
from .error_messages import print_error, print_message

if TYPE_CHECKING:
    from dllm.engine.results import Result

HELP = """/set policy factor f=1.0   change the strategy or its fields: policy, scheduler, cache, tau, temperature, …
/set max_new_tokens 64     most tokens of an answer; also seed and system; a value of none takes a setting back
/show                      the strategy and what is set
/clear                     forget what was said (also: clear)
/help                      this
/exit                      leave (also: exit, quit, Ctrl-D)
Ctrl-C stops an answer. What begins with // is said with one stroke."""


@dataclass
class ChatSession:
    """A conversation with a model.

    Attributes:
        model: The model.
        settings: Settings, which commands change.
        guidance: Scale of classifier-free guidance.
        reuse: Keep keys and values of finished blocks from one answer to the next.
        live: Draw the canvas while it denoises, on a terminal.
        messages: The conversation so far, without the system message.
        turn: Answers so far.
    """

    model: Any
    settings: ChatSettings
    guidance: float = 0.0
    reuse: bool = True
    live: bool = True
    messages: list[dict[str, str]] = field(default_factory=list)
    turn: int = 0

    def __post_init__(self) -> None:
        from dllm.conversation import History

        self.history = History()
        self.console = Console(highlight=False)
        self.plan(self.settings)

    def run(self) -> None:
        """Read lines and answer them until the person leaves."""
        interactive = sys.stdin.isatty() and sys.stdout.isatty()
        if interactive:
            import readline  # noqa: F401 lines can be edited and called back

            print_message("/help tells the commands; exit leaves", "dim")
        while True:
            try:
                line = input("> ") if interactive else _read_piped_line()
            except KeyboardInterrupt:
                self.console.print()
                continue
            except EOFError:
                if interactive:
                    self.console.print()
                return
            except UnicodeDecodeError as error:
                print_error(f"what was said is not UTF-8 ({error.reason} at byte {error.start})")
                continue
            if not self._handle_line(line.strip()):
                return

    def _handle_line(self, line: str) -> bool:
        """Carry out a command, or answer a message; return whether the conversation goes on."""
        command, _, rest = line.partition(" ")
        if line in ("exit", "quit", "/exit", "/quit"):
            return False
        try:
            if line in ("clear", "/clear"):
                self.clear()
            elif command == "/set":
                self.set(rest)
            elif line == "/show":
                self.show()
            elif line == "/help":
                print_message(HELP)
            elif line.startswith("/") and not line.startswith("//"):
                print_error(f"{command}: there is no such command; /help tells what there is")
            elif line:
                self.answer(line[1:] if line.startswith("//") else line)
        except DllmError as error:
            print_error(error)
        return True

    def clear(self) -> None:
        """Forget the conversation."""
        self.messages.clear()
        self.history.clear()
        print_message("forgotten", "dim")

    def set(self, text: str) -> None:
        """Change settings, unless the model could not decode with them."""
        settings = self.settings.change(text)
        self.plan(settings)
        self.settings = settings
        print_message(", ".join(f"{name} {value}" for name, value in settings.list_changed()), "dim")

    def show(self) -> None:
        """Print the strategy and what is set."""
        print_message(repr(self.plan(self.settings)))
        print_message(", ".join(f"{name} {value}" for name, value in self.settings.list_changed()), "dim")

    def plan(self, settings: ChatSettings) -> Any:
        """Return how answers are decoded.

        Raises:
            ConfigError: The settings cannot work with this model.
        """
        from dllm.jobs import Job, check_length, check_seed

        length = check_length(settings.max_new_tokens)
        job = Job(settings.options, length, check_seed(settings.seed), guidance=self.guidance)
        return job.plan(self.model, length)

    def answer(self, text: str) -> None:
        """Decode an answer to a message and show it as it comes.

        On failure the message is not added to the conversation.
        """
        from dllm.jobs.plan import tokenize_prompt
        from dllm.requests import Request
        from dllm.strategy import Strategy

        from .answer_display import AnswerDisplay

        settings, plan = self.settings, self.plan(self.settings)
        system = [] if settings.system is None else [{"role": "system", "content": settings.system}]
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = tokenize_prompt(self.model, [*system, *messages], True)
        request = Request(ids, settings.max_new_tokens, seed=settings.seed + self.turn)
        if self.reuse and isinstance(plan, Strategy):
            plan = self.history.strategy(plan)
        answer = AnswerDisplay(self.model, request, plan, self.console, self.live and self.console.is_terminal)
        try:
            answer.run()
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            print_error("out of memory: /set max_new_tokens lower, or /clear what was said")
            return
        if answer.stopped:
            print_message("stopped", "yellow")
        elif answer.result is not None:
            self._print_figures(answer.result)
        self.turn += 1
        self.messages = [*messages, {"role": "assistant", "content": answer.text}]

    def _print_figures(self, result: Result) -> None:
        """Print tokens, forwards and speed of an answer."""
        from .result_summary import summarize_results

        line = summarize_results([result], result.seconds)
        if self.history.reused:
            line.append(" · ", "dim").append(f"{self.history.reused}", "bold cyan")
            line.append(f" of {len(result.prompt_ids)} prompt tokens reused", "dim")
        print_message(line)


def _read_piped_line() -> str:
    """Read the next line of a pipe. Raises EOFError behind the last one."""
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line
