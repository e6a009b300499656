"""How a command fails: one sentence for people, one JSON object for programs, one name for both.

The object has the same fields wherever it stands: alone where success would have been a document,
or within that document where a command tells how its work ended (docs/reference/error-codes.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import click

from rivet_fleet import errors
from rivet_fleet.cli.invocation import known_redactor
from rivet_fleet.cli.say import say
from rivet_fleet.contracts.codes import code_of, is_retryable, known_code
from rivet_fleet.errors import ExitCode, RivetFleetError


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One thing that went wrong. ``about``: the export, or nothing."""

    code: str
    error_class: str
    exit_code: int
    message: str
    hint: str | None = None
    about: str | None = None

    @property
    def plain(self) -> dict[str, object]:
        """What a program decides by."""
        known = known_code(self.code, class_named(self.error_class))
        retryable = is_retryable(self.exit_code)
        if known.name == self.code and known.exit_code == self.exit_code:
            retryable = known.retryable
        return {
            "code": self.code,
            "class": self.error_class,
            "kind": known.kind.value,
            "retryable": retryable,
            "message": self.message,
            "hint": self.hint or None,
            "action": known.action,
            "exit_code": int(self.exit_code),
        }

    @property
    def entry(self) -> dict[str, object]:
        """The same as one of several."""
        return {"export_name": self.about, **self.plain}


def class_named(name: str | None) -> type[RivetFleetError]:
    """The class of our tree that bears this name; the root for any other."""
    found = getattr(errors, name or "", None)
    if isinstance(found, type) and issubclass(found, RivetFleetError):
        return found
    return RivetFleetError


def failure_of(error: BaseException, *, about: str | None = None) -> Failure:
    """What any exception says of itself, redacted. Of one that is not ours, what a library says
    may hold a value that it could not take: only its kind is told."""
    redact = known_redactor()
    if isinstance(error, RivetFleetError):
        return Failure(
            code=error.code,
            error_class=error.error_class,
            exit_code=int(error.exit_code),
            message=redact(error.message),
            hint=redact(error.hint) if error.hint else None,
            about=about,
        )
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return ending(
            ExitCode.STOPPED,
            "stopped by a signal",
            hint="start it again: what was stored stays stored",
        )
    if isinstance(error, click.ClickException):
        return Failure(
            code=errors.UsageError.code_default,
            error_class=errors.UsageError.__name__,
            exit_code=int(ExitCode.GENERIC),
            message=redact(error.format_message()),
            hint=_usage_hint(error),
        )
    return Failure(
        code=RivetFleetError.code_default,
        error_class=type(error).__name__,
        exit_code=int(ExitCode.GENERIC),
        message=f"unexpected {type(error).__name__}: this is a defect of rivet-fleet",
        hint="nothing was undone: what is stored stays stored. Please report the steps that stand "
        "on stderr without --json-errors, and what was asked",
    )


def ending(
    exit_code: int,
    message: str,
    *,
    code: str | None = None,
    hint: str | None = None,
    about: str | None = None,
) -> Failure:
    """An end that no exception tells: ``code`` by default that of the exit code."""
    known = code_of(exit_code) if code is None else known_code(code)
    return Failure(
        code=known.name,
        error_class=known.error.__name__,
        exit_code=int(exit_code),
        message=message,
        hint=hint,
        about=about,
    )


def failure_fields(failure: Failure, failures: Iterable[Failure] = ()) -> dict[str, object]:
    """``failures``: each thing that went wrong, where there is more to tell than the first."""
    several = [one.entry for one in failures] or [failure.entry]
    exit_class = ExitCode(failure.exit_code).name.lower()
    return {**failure.plain, "exit_class": exit_class, "failures": several}


def say_ended(text: str, failure: Failure | None, failures: Iterable[Failure] = ()) -> None:
    """A command's JSON document, and in it how it failed, if it did."""
    if failure is not None:
        document = {**json.loads(text), **failure_fields(failure, failures)}
        text = json.dumps(document, ensure_ascii=False)
    say(text, as_json=True)


def say_failure(failure: Failure, *, on_stdout: bool, json_errors: bool) -> None:
    """``on_stdout``: a JSON document was asked for, and none was said: this is it. ``json_errors``:
    the object on stderr in place of the sentence, under the names that it had there first, too."""
    fields = failure_fields(failure)
    if on_stdout:
        say(json.dumps(fields, ensure_ascii=False), as_json=True)
    if json_errors:
        first = {"error": failure.message, "error_class": failure.error_class}
        say(json.dumps({**first, **fields}, ensure_ascii=False), err=True, as_json=True)
        return
    say(f"error [{failure.code}]: {failure.message}", err=True)
    if failure.hint:
        say(f"  hint: {failure.hint}", err=True)


def say_steps(steps: str) -> None:
    """Where in the program something ended that nobody foresaw."""
    say(known_redactor()(steps), err=True)


def _usage_hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"see `{context.command_path} --help`" if context is not None else None
