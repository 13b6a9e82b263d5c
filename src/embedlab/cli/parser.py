"""The entry points' parser, and how an entry point ends as a process.

In: the words of a command line. Out: a namespace of values, or an OptionError of one sentence
before any heavy import.
Parameters are named as in `MLproject`: `like_rule` there is `--like-rule` here.
"""

import argparse
import atexit
import gc
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, NoReturn

from embedlab.distributed.env import is_main_process
from embedlab.distributed.launch import SECONDS_FOR_MAIN_PROCESS
from embedlab.errors import EmbedlabError, MainProcessKilledError, OptionError, TrackingError
from embedlab.formatting import first_line, value_as_text

HELP = frozenset(("-h", "--help"))
EXIT_INTERRUPTED = 130
# The imports of torch and MLflow create a million objects. With the default of Python 3.11, 700,
# looking for garbage among them takes a fifth of their time.
NEW_OBJECTS_PER_COLLECTION = 10_000


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are OptionErrors: one sentence, no usage dump.

    parameters  argparse's action of each parameter, by the parameter's name.
    only_with   what the other parameter must be for this one to have an effect, by its name:
                `launcher=ray`.
    """

    def __init__(self, entry_point: str, description: str):
        super().__init__(
            prog=f"python -m entrypoints.{entry_point}",
            description=description,
            allow_abbrev=False,
        )
        self.parameters: dict[str, argparse.Action] = {}
        self.only_with: dict[str, str] = {}

    def add(
        self,
        name: str,
        type: Callable[[str], object],
        default: object,
        help: str,
        only_with: str = "",
    ) -> None:
        """Add the parameter `name`; default "" means 'not given', None 'required'."""
        note = f"default: {value_as_text(default) or 'none'}" if default is not None else "required"
        if only_with:
            self.only_with[name] = only_with
            help = f"with {only_with}: {help}"
        self.parameters[name] = self.add_argument(
            _as_flag(name),
            type=type,
            default=default,
            required=default is None,
            help=f"{help} ({note})",
            metavar=getattr(type, "metavar", None) or name.rpartition("_")[2].upper(),
        )

    def non_default(self, args: argparse.Namespace) -> dict[str, object]:
        """The parameters that differ from their defaults.

        `mlflow run` passes defaults, too, so it is unknown what the user typed.
        """
        defaults = vars(self.parse_args([]))
        return {name: value for name, value in vars(args).items() if value != defaults[name]}

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse flags with one value each: the next word, even if it starts with a dash.

        Raises OptionError if a word belongs to no parameter, a value is not UTF-8, or a value has
        no effect without that of another parameter.
        """
        flags = set(map(_as_flag, self.parameters))
        joined: list[str] = []  # "--flag=value"
        unknown: list[str] = []
        for word in sys.argv[1:] if args is None else args:
            name, equals, value = word.partition("=")
            flag = name.replace("_", "-")  # accepts the spelling in MLproject, too
            if joined and joined[-1] in flags and word.replace("_", "-") not in flags:
                if word == "--":  # argparse would drop it and give an empty list
                    self.error(f"argument {joined[-1]}: expected a value, got '--'")
                joined[-1] += f"={word}"
            elif flag in flags or word in HELP:
                joined.append(flag + equals + value)
            else:
                unknown.append(word)
        if unknown and not HELP & set(joined):
            self.error(self._unknown_reason(unknown))
        for word in joined:
            flag, _, value = word.partition("=")
            if any("\ud800" <= letter <= "\udfff" for letter in value):  # not UTF-8
                self.error(f"argument {flag}: expected text in UTF-8, got {value!a}")
        parsed, rest = super().parse_known_args(joined, namespace)
        self._refuse_ineffective(parsed)
        return parsed, rest

    def _refuse_ineffective(self, parsed: argparse.Namespace) -> None:
        for name, needed in self.only_with.items():
            other, _, value = needed.partition("=")
            found = value_as_text(getattr(parsed, other))
            if found != value and getattr(parsed, name) != self.parameters[name].default:
                self.error(
                    f"argument {_as_flag(name)}: expected {needed} with it, got {other}={found}, "
                    f"where it has no effect: add {needed}, or leave {name} out"
                )

    def _unknown_reason(self, words: Sequence[str]) -> str:
        """Every unknown name among the words, with the nearest parameter."""
        reasons = []
        for word in words:
            if word.startswith("--") and (name := _as_parameter(word.partition("=")[0])):
                near = get_close_matches(name.lower(), self.parameters, n=1, cutoff=0.5)
                hint = f": did you mean {near[0]}?" if near else ""
                reasons.append(f"there is no parameter {name}{hint}")
        return "; ".join(reasons) or f"expected --name value, got {' '.join(words)!r}"

    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument --")
        name, colon, rest = text.partition(": ")
        if text != message and colon:
            text = f"{_as_parameter(name)}: {rest}"
        elif name == "the following arguments are required":
            text = f"expected a value for {', '.join(map(_as_parameter, rest.split(', ')))}"
        raise OptionError(f"{text} (see `{self.prog} --help`)")


def _as_flag(parameter: str) -> str:
    """The flag of a parameter: `like_rule` -> `--like-rule`."""
    return "--" + parameter.replace("_", "-")


def _as_parameter(flag: str) -> str:
    """The parameter of a flag: `--like-rule` -> `like_rule`."""
    return flag.removeprefix("--").replace("-", "_")


def run_main(main: Callable[[Sequence[str] | None], None]) -> None:
    """Run an entry point as a process: an EmbedlabError is one line on stderr and exit code 1.

    Ctrl-C exits with 130, and a closed output pipe and a full GPU with 1. Any other exception keeps
    its traceback.
    """
    gc.set_threshold(NEW_OBJECTS_PER_COLLECTION)
    # The end of the process frees its memory: to look for garbage among all modules takes a second.
    atexit.register(gc.freeze)
    try:
        main(None)
    except EmbedlabError as error:
        if not is_main_process():
            time.sleep(SECONDS_FOR_MAIN_PROCESS)  # torchrun ends this process with the main one
        print(f"embedlab: {error}", file=sys.stderr)
        if is_main_process():
            # An environment without MLflow cannot close the run; `mlflow run` itself then does.
            with suppress(KeyboardInterrupt, ModuleNotFoundError):
                _close_open_run(error)
        sys.exit(1)
    except KeyboardInterrupt:
        if is_main_process():
            print("embedlab: stopped by Ctrl-C; the run keeps what it had logged.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # `... | head`: the reader has gone, and the output with it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if not _fills_gpu(error):
            raise
        print(
            f"embedlab: the GPU has too little memory ({first_line(error)}): try a smaller "
            "resolution or batch_size, for movies objective=factored or a smaller dim, end other "
            "programs on the GPU, or take device=cpu",
            file=sys.stderr,
        )
        sys.exit(1)


def _fills_gpu(error: Exception) -> bool:
    """Whether the memory of a GPU is full, as torch reports it, which may not be imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _close_open_run(error: EmbedlabError) -> None:
    """Close a run that no `start_run` of this process closes, and record why."""
    if isinstance(error, MainProcessKilledError):
        from embedlab.tracking.lifecycle import mark_stale_runs_here

        mark_stale_runs_here()
    # `start_run` removes the variable when it adopts the run that `mlflow run` has made.
    elif "MLFLOW_RUN_ID" in os.environ and not isinstance(error, TrackingError):
        from embedlab.tracking.lifecycle import end_refused_run

        end_refused_run(error)
