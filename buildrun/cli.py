"""The command line: arguments to one command; the only place that prints an error.

Hardly anything is imported before `entry` has set what signals do: one that comes earlier meets
Python's own handler, which shows a traceback.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` itself would first load `enum`
import os
import sys

from buildrun import __version__

TYPE_CHECKING = False  # what type checkers take for true; `typing` would take long to import
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

    from buildrun.errors import BuildrunError
    from buildrun.planning.plan_cache import PlanLease

# Each verb is a module of `buildrun.commands`; only the one that is asked for is imported.
COMMANDS = {
    "run": "run an entry point of a project",
    "plan": "show what would run and why",
    "build": "prepare the environment a run needs, without running",
    "lock": "pin the environment to versions and hashes",
    "ls": "list entry points with their parameters",
    "inputs": "list the input files of a step, or find out what it reads and makes",
    "runs": "list past runs, how they went and what they wrote",
    "cache": "list, check and clear what buildrun keeps",
    "validate": "check project and environment files",
    "init": "write a project's first files, from scripts, a template or dvc.yaml",
    "schema": "print a JSON Schema for editors",
    "completion": "print what completes command lines in bash, zsh or fish",
}

_ENDING = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)

# Options whose value may begin with a dash.
_WITH_VALUE = frozenset(
    {"-P", "--param-list", "-A", "--docker-args", "--run-name", "--run-id", "--experiment-name"}
)

_EPILOG = (
    "`buildrun URI …` is `buildrun run URI …`, and without a URI the current directory is meant.",
    "`buildrun COMMAND --help` tells its options.",
)


def entry() -> None:
    """Run the command line and exit; the console script."""
    for number in _ENDING:
        if _signal.getsignal(number) is not _signal.SIG_IGN:
            _signal.signal(number, _end)
    _open_missing_streams()
    # It comes with Jupyter, and takes jsonschema a second to load; our schemas have no such format.
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    try:
        code = main(sys.argv[1:], os.environ, os.getcwd)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            _silence_stdout()
            code = code or 1
    except KeyboardInterrupt:
        code = 128 + _signal.SIGINT
    # The interpreter's own end would take longer than a warm run's whole beginning.
    os._exit(code)


def main(argv: Sequence[str], environ: Mapping[str, str], getcwd: object = os.getcwd) -> int:
    """Return the exit code for these arguments; prints every error, and no traceback."""
    from buildrun.errors import FAILURE, INTERRUPTED, BuildrunError

    arguments = list(argv)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    planning = False
    try:
        if arguments and arguments[0].startswith("--listener="):
            _attach_listener(arguments.pop(0))
            planning = arguments[:1] == ["plan"]
        return _run_command(arguments, environ, _current_directory(getcwd))
    except BuildrunError as error:
        if debug:
            raise
        # Who has asked for a plan gets what is wrong as an exception, and nothing else.
        return _report_error(error, environ, silent=planning)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return FAILURE
    except Exception as error:
        if debug:
            raise
        return _report_defect(error, environ)


def _run_command(arguments: list[str], environ: Mapping[str, str], cwd: str) -> int:
    """Carry out the command that the arguments name; without one, `run`."""
    arguments = arguments or ["run"]
    if arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview(environ))
        return 0
    if arguments[0] in ("--version", "-V"):
        sys.stdout.write(f"buildrun {__version__}\n")
        return 0
    if arguments[0] == "__complete":
        from buildrun.commands import completion

        return completion.answer(arguments[1:], COMMANDS, cwd)
    if arguments[0] in COMMANDS and arguments[0] != "run":
        return _dispatch(arguments, dict(environ), cwd)
    _unwind_on_signals()
    from buildrun import runner

    return runner.run(
        tuple(arguments),
        environ,
        cwd,
        lambda lease: _dispatch(arguments, dict(environ), cwd, lease),
    )


def _dispatch(
    arguments: list[str], environ: Mapping[str, str], cwd: str, lease: PlanLease | None = None
) -> int:
    """Parse the arguments and execute their command; lease: for `run`."""
    from importlib import import_module

    from buildrun.commands.parser import parser_of

    given = tuple(arguments)
    verb = arguments.pop(0) if arguments[0] in COMMANDS else "run"
    if verb == "run" and len(given) == len(arguments):
        _refuse_typing_error(given, cwd)
    module = import_module(f"buildrun.commands.{verb}")
    parser = parser_of(verb, COMMANDS[verb])
    try:
        parsed = parser.parse_args(_joined(arguments))
    except SystemExit as request:
        return int(request.code or 0)
    parsed.command_line = given
    extra = () if lease is None else (lease,)
    _unwind_on_signals()
    code = module.execute(parsed, environ, cwd, *extra)
    sys.stdout.flush()
    return int(code)


def _joined(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with values that begin with a dash joined to their options.

    argparse takes such a value for an option; MLflow's command line takes it for what it is.
    """
    joined: list[str] = []
    waiting = ""
    for argument in arguments:
        if waiting and argument.startswith("-"):
            joined[-1] = f"{waiting}={argument}" if waiting.startswith("--") else waiting + argument
            waiting = ""
        else:
            joined.append(argument)
            waiting = argument if argument in _WITH_VALUE and not waiting else ""
    return joined


def _refuse_typing_error(arguments: Sequence[str], cwd: str) -> None:
    """Raise UsageError for a first word that is nearly a command and no project."""
    from buildrun.errors import UsageError

    word = arguments[0]
    if not word:
        raise UsageError("the project's URI is empty", hint="give a directory, such as `.`")
    if not word.isalpha() or os.path.exists(os.path.join(cwd, word)):
        return
    from buildrun.console import did_you_mean

    if meant := did_you_mean(word, COMMANDS):
        raise UsageError(f"`{word}` is neither a command nor a project", hint=meant)


def _overview(environ: Mapping[str, str]) -> str:
    import textwrap

    from buildrun.commands.examples import USES
    from buildrun.commands.table import width

    columns, indent = max(width(environ) or 100, 20), " " * 14
    lines = ["usage: buildrun [COMMAND] …", "", "Run MLflow Projects, fast and safely.", ""]
    for command, what in USES:
        lines += [f"  {command}", textwrap.indent(textwrap.fill(what, columns - 6), " " * 6)]
    lines += ["", "commands:"]
    for verb, text in COMMANDS.items():
        lines += textwrap.wrap(f"  {verb:<11} {text}", columns, subsequent_indent=indent)
    lines += ["", *(line for text in _EPILOG for line in textwrap.wrap(text, columns))]
    return "\n".join([*lines, ""])


def _current_directory(getcwd: object) -> str:
    try:
        return str(getcwd())  # type: ignore[operator]
    except FileNotFoundError:
        from buildrun.errors import BuildrunError

        raise BuildrunError(
            "the current directory no longer exists", hint="change to one that does"
        ) from None


def _end(number: int, _: FrameType | None) -> None:
    """End at once: nothing is half made yet."""
    os._exit(128 + number)


def _unwind_on_signals() -> None:
    """Make the signals that end a program unwind it, so that nothing is left half made."""
    for number in _ENDING:
        present = _signal.getsignal(number)
        interrupts = number == _signal.SIGINT
        if present is _end or (present == _signal.SIG_DFL and not interrupts):
            try:
                handler = _signal.default_int_handler if interrupts else _interrupt
                _signal.signal(number, handler)
            except ValueError:
                return  # not the main thread: its owner decides


def _interrupt(number: int, _: FrameType | None) -> None:
    from buildrun.errors import Interrupted

    raise Interrupted(number)


def _attach_listener(option: str) -> None:
    from buildrun.commands import notify
    from buildrun.store import runs

    notify.attach(option)
    runs.listeners.append(notify.notify_record)
    runs.id_listeners.append(notify.notify_id)


def _report_error(error: BuildrunError, environ: Mapping[str, str], *, silent: bool = False) -> int:
    from buildrun.commands.notify import notify_error
    from buildrun.console import Console, printable

    notify_error(error)
    text = f"{printable(error.place)}: {error.message}" if error.place else error.message
    if not silent:
        Console(environ).error(text, error.hint or "")
    return error.exit_code


def _report_defect(error: Exception, environ: Mapping[str, str]) -> int:
    import errno

    from buildrun.console import Console
    from buildrun.errors import BUG, FAILURE

    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        Console(environ).error("too many open files", "raise the limit with `ulimit -n 1024`")
        return FAILURE
    if isinstance(error, OSError):
        # Without a name it is a stream: the store's and the project's files have theirs.
        place = error.filename or "standard output"
        Console(environ).error(f"{place}: {error.strerror or error}")
        return FAILURE
    Console(environ).error(
        f"buildrun has a defect: {type(error).__name__}: {error}",
        "run again with `--debug` and report what it prints",
    )
    return BUG


def _open_missing_streams() -> None:
    """Give a process that was started without standard streams ones that lead nowhere."""
    if sys.stdin is not None and sys.stdout is not None and sys.stderr is not None:
        return
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _silence_stdout() -> None:
    """Keep the interpreter from complaining about a reader that went away."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
