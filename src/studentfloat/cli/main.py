"""The command line: one module a subcommand, loaded when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from keyword import iskeyword

import click

from studentfloat import __version__
from studentfloat.cli.terminal import write_what_can_be_shown
from studentfloat.errors import FailureError, StudentFloatError

__all__ = ["cli", "main"]

# Name of the subcommand, its module, and its help: stated here so that `--help` imports none.
_COMMANDS = {
    "compare": "What each number format costs a model: the main job.",
    "evaluate": "What a model, packed or not, scores on tasks.",
    "quantize": "Pack a model in any format, ready for from_pretrained.",
    "verify": "Is a packed model what it says it is?",
    "dequantize": "A dense model again, that any tool loads.",
    "merge": "Join the parts that `quantize --shard` made.",
    "import": "What bitsandbytes or llama.cpp quantized, packed as it is.",
    "export": "A packed model for llama.cpp, vLLM or ONNX Runtime.",
    "formats": "List the number formats, or show one.",
    "hardware": "What a format costs in silicon: proved RTL, area, delay, energy.",
    "profile": "Which law do a model's weights and activations follow?",
    "derive": "The format that follows from a profile.",
    "study": "Many models, formats, methods and tasks: a sweep that cannot be lost.",
    "report": "One page of what a study or a comparison found.",
}

_INTERRUPTED = 1


class _LazyGroup(click.Group):
    """A group whose commands are imported only when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        if iskeyword(cmd_name):
            command: click.Command = import_module(f"studentfloat.cli.{cmd_name}_").command
        else:
            command = getattr(import_module(f"studentfloat.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="studentfloat")
def cli() -> None:
    """What does a number format cost a large language model?

    Results go to stdout (--json for machines), progress to stderr. Exit status: 0 done,
    1 failed, 2 misuse, 3 done but for cells of a study that failed.
    """


def main() -> None:
    """Run the command line and exit."""
    write_what_can_be_shown()
    sys.exit(_run(lambda: cli.main(standalone_mode=False)))


def _run(call: Callable[[], object]) -> int:
    """Run, turn errors into one line on stderr, and give the exit status."""
    try:
        if sys.stdout is None:
            raise FailureError("standard output is closed: nowhere to write results")
        result = call()
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except StudentFloatError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: the same command goes on where it stopped", err=True)
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read stdout has had enough; nothing more can be written there.
        _discard_stdout()
        return _INTERRUPTED
    except OSError as error:
        click.echo(f"error: {error.strerror or error}", err=True)
        _discard_stdout()
        return 1
    return result if isinstance(result, int) else 0


def _discard_stdout() -> None:
    """Let what is still buffered go nowhere, so that leaving raises nothing."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
