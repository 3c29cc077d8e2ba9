"""`buildrun completion`: scripts for shells, and what they ask for at each Tab.

The scripts hand the line up to the cursor to ``buildrun __complete SHELL LINE``, and get a word a
line, in the form that their shell takes. Without any, the shell completes names of files.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.commands.parser import parser_of
from buildrun.console import is_named, printable, redact
from buildrun.project.locate import find_mlproject, scripts_in
from buildrun.project.yaml_loader import Document, load
from buildrun.store.memo import DependencyTracker

_SCRIPTS = {
    "bash": r"""# Completion for bash: put this line into ~/.bashrc
#     eval "$(buildrun completion bash)"
_buildrun() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <(buildrun __complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    if [[ ${COMPREPLY[0]-} == *= ]]; then
        compopt -o nospace
    fi
}
complete -o bashdefault -o default -F _buildrun buildrun
""",
    "zsh": r"""# Completion for zsh: put this line into ~/.zshrc, behind `compinit`
#     eval "$(buildrun completion zsh)"
_buildrun() {
    local -a found
    local line="${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX"
    found=("${(@f)$(buildrun __complete zsh "$line" 2>/dev/null)}")
    if [[ -z $found[1] ]]; then
        _files
    elif [[ $found[1] == *=:* ]]; then
        _describe buildrun found -S ''
    else
        _describe buildrun found
    fi
}
compdef _buildrun buildrun
""",
    "fish": r"""# Completion for fish: put this line into ~/.config/fish/config.fish
#     buildrun completion fish | source
function __buildrun_complete
    set -l found (buildrun __complete fish (commandline -cp | string collect) 2>/dev/null)
    if set -q found[1]
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c buildrun -f -a '(__buildrun_complete)'
""",
}

# Stands for the cursor, so that a word of which nothing is typed yet is a word all the same.
_CURSOR = "\ufdd0"


class Suggestion(NamedTuple):
    """A word that may stand where the cursor is, and what it means."""

    word: str
    text: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("shell", metavar="SHELL", choices=tuple(_SCRIPTS), help="bash, zsh or fish")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:  # noqa: ARG001
    """Write the shell's script to standard output."""
    sys.stdout.write(_SCRIPTS[arguments.shell])
    return 0


def answer(arguments: Sequence[str], commands: Mapping[str, str], cwd: str) -> int:
    """Write what suits a line; arguments: the shell and the line. Nothing is said of errors."""
    try:
        shell, line = arguments
        form = _FORMS[shell]
        words = split(line)
        # Before our name may stand variables, or `sudo`.
        names = [index for index, word in enumerate(words) if _is_ours(word)]
        for suggestion in suggest(words[min(names, default=0) + 1 :], commands, cwd):
            if suggestion.word.isprintable():
                sys.stdout.write(form(suggestion, line) + "\n")
    except Exception:
        return 1  # whoever is typing wants no messages between the words
    return 0


def _is_ours(word: str) -> bool:
    return os.path.basename(word) == "buildrun"


def split(line: str) -> list[str]:
    """Return a line's words without quotes, the one that is being typed last."""
    for end in ("", "'", '"'):
        try:
            *words, last = shlex.split(f"{line}{_CURSOR}{end}")
        except ValueError:
            continue  # a quote is open
        return [*words, last.replace(_CURSOR, "")]
    return [""]


def suggest(words: Sequence[str], commands: Mapping[str, str], cwd: str) -> Iterator[Suggestion]:
    """Yield what the last of the words may become; commands: their names, and what they do."""
    *before, word = words
    verb = before.pop(0) if before and before[0] in commands else ""
    place = _walk(parser_of(verb or "run", commands[verb or "run"]), before)
    prefix, found = "", list(_values(place.waiting or place.positional, place, cwd))
    if word.startswith("-") and place.waiting is None:
        action, start, value = _option(place.parser, word)
        prefix = "" if value is None else start
        found = list(_options(place.parser) if value is None else _values(action, place, cwd))
    elif not before and not verb:
        found += [Suggestion(name, text) for name, text in commands.items()]
    for name, text in found:
        if (prefix + name).startswith(word):
            yield Suggestion(prefix + name, printable(" ".join(text.split())))


class _Place(NamedTuple):
    """Where the cursor is.

    given: the words before it, by what they are for. waiting: the option whose value is to come.
    positional: what stands here without an option.
    """

    parser: argparse.ArgumentParser
    given: Mapping[str, str]
    waiting: argparse.Action | None
    positional: argparse.Action | None


def _walk(parser: argparse.ArgumentParser, words: Sequence[str]) -> _Place:
    given: dict[str, str] = {}
    waiting: argparse.Action | None = None
    left = parser._get_positional_actions()
    for word in words:
        if waiting is not None and not (waiting.nargs == "?" and word.startswith("-")):
            given[waiting.dest], waiting = word, None
        elif word.startswith("-"):
            action, _, value = _option(parser, word)
            waiting = action if value is None and action is not None and action.nargs != 0 else None
            if action is not None and value is not None:
                given[action.dest] = value
        elif left:
            action = left[0] if left[0].nargs == "*" else left.pop(0)
            given[action.dest] = word
            if isinstance(action, argparse._SubParsersAction) and word in action.choices:
                parser = action.choices[word]
                left = parser._get_positional_actions()
    return _Place(parser, given, waiting, left[0] if left else None)


def _option(
    parser: argparse.ArgumentParser, word: str
) -> tuple[argparse.Action | None, str, str | None]:
    """Return a word's option, what stands before its value, and the value; None where it has none.

    The value is in the word: `--format=json` or `-Palpha=1`.
    """
    actions = parser._option_string_actions
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return actions.get(name), name + equals, value if equals else None
    return actions.get(word[:2]), word[:2], word[2:] or None


def _options(parser: argparse.ArgumentParser) -> Iterator[Suggestion]:
    for name, action in parser._option_string_actions.items():
        if action.help != argparse.SUPPRESS:
            yield Suggestion(name, (action.help or "").replace("%%", "%"))


def _values(action: argparse.Action | None, place: _Place, cwd: str) -> Iterator[Suggestion]:
    if action is None:
        return
    if action.dest in ("entry_point", "force"):
        yield from _entry_points(place, cwd)
    elif action.dest == "param_list":
        yield from _parameters(place, cwd)
    elif isinstance(action, argparse._SubParsersAction):
        for verb in action._choices_actions:
            yield Suggestion(verb.dest, verb.help or "")
    else:
        yield from map(Suggestion, action.choices or ())


def _entry_points(place: _Place, cwd: str) -> Iterator[Suggestion]:
    root = _root(place, cwd)
    for name, value in _declared(root).items():
        yield Suggestion(str(name), redact(str(value.get("description") or value.get("command"))))
    if find_mlproject(root) is None:
        yield from map(Suggestion, scripts_in(root))


def _parameters(place: _Place, cwd: str) -> Iterator[Suggestion]:
    chosen = _declared(_root(place, cwd))[place.given.get("entry_point", "main")]
    for name, value in chosen.get("parameters", {}).items():
        declared = value if isinstance(value, dict) else {"type": value}
        text = str(declared.get("type") or "string")
        if "default" in declared and not declared.get("secret", is_named(str(name))):
            text += f", default: {redact(str(declared['default']))}"
        yield Suggestion(f"{name}=", text)


def _root(place: _Place, cwd: str) -> str:
    base, _, subdirectory = os.path.expanduser(place.given.get("uri", ".")).partition("#")
    path = os.path.join(cwd, base)
    if os.path.basename(path).lower() == "mlproject":
        path = os.path.dirname(path)
    return os.path.join(path, subdirectory)


def _declared(root: str) -> Mapping[Any, Any]:
    """Return the entry points as they stand in the file: there is no time to check them."""
    file = find_mlproject(root)
    document = load(file, DependencyTracker({})) if file is not None else None
    points = document.value.get("entry_points") if isinstance(document, Document) else None
    return points or {}


def _in_bash(suggestion: Suggestion, line: str) -> str:
    """Return what bash puts in place of the last part of the line's last word.

    For it a word's parts end at `=`, `:` and an opening quote.
    """
    raw = re.search(rf"(?:{_QUOTED}|[^\s\\'\"]|['\"].*)*\Z", line, re.DOTALL)
    typed = raw[0] if raw else ""
    plain = re.sub(_QUOTED, lambda found: "x" * len(found[0]), typed)
    opened = re.search("['\"]", plain)
    quote = opened[0] if opened else ""
    start = opened.end() if opened else max(plain.rfind("="), plain.rfind(":")) + 1
    rest = suggestion.word[len(split(typed[:start])[-1]) :]
    if quote == "'":
        return rest.replace("'", "'\\''")
    return re.sub(r'(["\\$`])' if quote else r"([^\w@%+=:,./~-])", r"\\\1", rest)


# What is quoted to its end.
_QUOTED = r"""\\.|'[^']*'|"(?:\\.|[^"\\])*\""""


def _in_zsh(suggestion: Suggestion, _: str) -> str:
    word = suggestion.word.replace("\\", r"\\").replace(":", r"\:")
    return f"{word}:{suggestion.text}"


def _in_fish(suggestion: Suggestion, _: str) -> str:
    return "\t".join(suggestion)


_FORMS: Mapping[str, Callable[[Suggestion, str], str]] = {
    "bash": _in_bash,
    "zsh": _in_zsh,
    "fish": _in_fish,
}
