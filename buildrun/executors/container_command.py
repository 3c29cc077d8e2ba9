"""What a container runs for a command's text: plain words, or a shell where one is needed."""

from __future__ import annotations

import re
import shlex

# The variable that holds a command which bears secrets.
COMMAND = "BUILDRUN_COMMAND"

# What a shell would do more with than to pass it on. `=` and `#` matter at the beginning of words.
_SHELL_SYNTAX = re.compile(r"[$`|&;<>()*?\[\]~!{}\n\r]")

# Words that only a shell knows, or does something else with than a program of that name.
_SHELL_WORDS = frozenset(
    {
        ".", ":", "alias", "bg", "break", "builtin", "case", "cd", "command", "continue", "coproc",
        "declare", "do", "done", "elif", "else", "esac", "eval", "exec", "exit", "export", "fi",
        "for", "function", "hash", "if", "in", "local", "popd", "pushd", "read", "readonly",
        "return", "select", "set", "shift", "shopt", "source", "then", "time", "trap", "type",
        "typeset", "ulimit", "umask", "unset", "until", "wait", "while",
    }
)  # fmt: skip

# What other shells take for something else, or do not know.
_BASH_SYNTAX = re.compile(
    r"\[\[|[<>]\(|<<<|&>|\|&|\$'|\w=\(|(?<!\$)\(\(|(?<!\$)\{[^{}\s]*(?:,|\.\.)[^{}\s]*\}"
    r"|\b(?:coproc|declare|function|mapfile|popd|pushd|select|shopt)\s"
)
_BASH_EXPANSION = re.compile(r"\$\{(?:!|\w+\[)")

_RUN_PYTHON = 'command -v python >/dev/null 2>&1 || exec python3 "$@"; exec python "$@"'
_NO_BASH = "echo 'the command is written for bash, and the image has no bash' >&2; exit 127"
_DEFINE_PYTHON = (
    "command -v python >/dev/null 2>&1 || if command -v python3 >/dev/null 2>&1; "
    'then python() { python3 "$@"; }; fi; '
)


def program(command: str, *, python: bool = True) -> tuple[str, ...]:
    """Return the words that run a command's text wholly inside of a container.

    Plain words are run as such, like `docker run IMAGE words…`, so that an image needs no shell for
    them and an entrypoint of its own gets them; everything else is for `bash -c` in there, or for
    `sh -c` where the image has no bash. The shell takes a `python3` for a `python` that is absent.

    python: False for an image that has a shell and no `python`.
    """
    words = plain_words(command)
    if not python and words[:1] == ("python",):
        return ("sh", "-c", _RUN_PYTHON, *words)
    return words or ("sh", "-c", _script(command), command)


def begins_with_python(command: str) -> bool:
    """Return whether a command is plain words, the first of them `python`."""
    return plain_words(command)[:1] == ("python",)


def program_of_variable(command: str) -> tuple[str, ...]:
    """Return the words that run a command whose text the variable `COMMAND` holds, unset for it."""
    taken = f'set -- "${COMMAND}"; unset {COMMAND}; '
    return ("sh", "-c", taken + _script(command).replace('"$0"', '"$1"'))


def _script(command: str) -> str:
    """Return what `sh -c` gets for a command that is its `$0`."""
    text = f"'{_DEFINE_PYTHON}'\"$0\"" if "python" in command else '"$0"'
    otherwise = _NO_BASH if needs_bash(command) else f"exec sh -c {text}"
    return f"command -v bash >/dev/null 2>&1 && exec bash -c {text}; {otherwise}"


def needs_bash(command: str) -> bool:
    """Return whether a command holds what only bash does as it is meant."""
    bare = re.sub(r"'[^']*'", "''", command)
    unquoted = re.sub(r'"(?:[^"\\]|\\.)*"', '""', bare, flags=re.DOTALL)
    return bool(_BASH_SYNTAX.search(unquoted) or _BASH_EXPANSION.search(bare))


def plain_words(command: str) -> tuple[str, ...]:
    """Return the words of a command for which a shell would do nothing but split it, else ()."""
    bare = re.sub(r"'[^']*'", "''", command)
    if _SHELL_SYNTAX.search(bare) or "\\" in bare or "#" in bare:
        return ()
    try:
        words = tuple(shlex.split(command))
    except ValueError:
        return ()
    if not words or "=" in words[0] or words[0] in _SHELL_WORDS:
        return ()
    return words
