"""What goes wrong, said in one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rich_click as click
from click.exceptions import Exit

EXPECTED = (ValueError, RuntimeError, OSError, IndexError, ImportError)


def in_one_line(error: click.ClickException) -> str:
    """The message, and where to look it up if the command was not understood."""
    message = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message = f"{message.rstrip('.')}; see {error.ctx.command_path} --help"
    return f"error: {message}"


@contextmanager
def one_line_each(debug: bool) -> Iterator[None]:
    """Turn exceptions into messages without a traceback, unless it is asked for.

    Raises:
        ClickException: What the library raises to be read by users, and anything else as a fault of
            the library.
    """
    try:
        yield
    except (click.ClickException, Exit, click.Abort, BrokenPipeError):
        raise
    except EXPECTED as error:
        if debug:
            raise
        raise click.ClickException(_text(error)) from error
    except Exception as error:
        if debug:
            raise
        raise click.ClickException(
            f"{type(error).__name__}: {error}: this should not happen; give --debug and report "
            "what it prints, with the output of openmm-tbg doctor"
        ) from error


def _text(error: Exception) -> str:
    """Its message; an error of the operating system without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
