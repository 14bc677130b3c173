"""`optgen`: the group of commands, and what happens to errors."""

from __future__ import annotations

import importlib
import io
import sys
import traceback
from typing import Any

import click

from optgen import __version__

__all__ = ["main"]

COMMANDS = ("build", "check", "diff", "explain", "list", "memory", "new", "roofline", "show", "verify")
USER_ERROR, INTERNAL_ERROR = 1, 70


class _Commands(click.Group):
    """Imports a command when it is used, so that `optgen build` does not wait for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"optgen.cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        from optgen.diagnostics.diagnostic import did_you_mean

        if args and args[0] not in COMMANDS and (help_text := did_you_mean(args[0], COMMANDS)):
            ctx.fail(f"No such command '{args[0]}': {help_text}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        from optgen.diagnostics import SpecError
        from optgen.output import OutputError

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that lacks a character still gets the rest
        try:
            return super().invoke(ctx)
        except SpecError as error:
            from optgen.cli.console import print_diagnostics

            print_diagnostics(error.diagnostics)
            ctx.exit(USER_ERROR)
        except OutputError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(USER_ERROR)
        except (click.ClickException, click.exceptions.Exit, click.Abort, KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception:  # noqa: BLE001 -- the last stop: say that it is our fault
            traceback.print_exc()
            click.echo(f"\noptgen {__version__} failed: this is a bug of optgen. Please report it with the spec.", err=True)
            ctx.exit(INTERNAL_ERROR)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="optgen")
def main() -> None:
    """Compile optimizers: a declarative spec in, a torch.optim.Optimizer with fused kernels out."""


if __name__ == "__main__":
    sys.exit(main())
