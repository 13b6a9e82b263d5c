"""Arguments of the entry points: types that reject bad values with a sentence, before any work.

A parameter's name is the one of `MLproject`: `like_rule` there is `--like-rule` here.
"""

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches

from embedlab.datasets.images import check_dataset_argument
from embedlab.datasets.movielens import check_ratings_argument
from embedlab.distributed.launch import (
    MAX_PROCESSES,
    SECONDS_FOR_MAIN_PROCESS,
    is_distributed,
    is_main_process,
    world_size,
)
from embedlab.errors import EmbedlabError, MainProcessKilledError, OptionError, TrackingError
from embedlab.movies.options import OBJECTIVES, USER_WEIGHTS, check_like_rule
from embedlab.tracking.registry.promotion import PROMOTE
from embedlab.vision.options import (
    AUGMENTATIONS,
    BACKBONES,
    FREEZE,
    LINEAR_PROBE_LR,
    MAX_RESOLUTION,
    MIN_RESOLUTION,
    OPTIMIZERS,
    PRECISIONS,
    RECIPES,
    SCHEDULES,
)
from embedlab.wording import value_as_text

HELP = frozenset(("-h", "--help"))
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
EXIT_INTERRUPTED = 130
LARGEST = 2**31 - 1


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are OptionErrors: one sentence, no usage dump."""

    def __init__(self, entry_point: str, description: str):
        super().__init__(
            prog=f"python -m entrypoints.{entry_point}",
            description=description,
            allow_abbrev=False,
        )
        self._flags: set[str] = set()
        self._defaults: dict[str, object] = {}

    def add(self, name: str, type: Callable, default: object, help: str) -> None:
        """Add the parameter `name`; an empty default means 'not given', None that it must be."""
        shown = str(default).lower() if isinstance(default, bool) else default
        is_required = default is None
        note = "required" if is_required else f"default: {'none' if shown == '' else shown}"
        metavar = getattr(type, "metavar", name.rpartition("_")[2].upper())
        flag = "--" + name.replace("_", "-")
        self._flags.add(flag)
        self._defaults[name] = type(default) if isinstance(default, str) else default
        self.add_argument(
            flag,
            type=type,
            default=default,
            required=is_required,
            help=f"{help} ({note})",
            metavar=metavar,
        )

    def given(self, args: argparse.Namespace) -> dict[str, object]:
        """The parameters that are not at their default, which `mlflow run` passes, too."""
        values = vars(args).items()
        return {name: value for name, value in values if value != self._defaults[name]}

    def parse_known_args(self, args=None, namespace=None):
        """Every flag takes one value: the word after it, even where that starts with a dash."""
        joined: list[str] = []
        unknown: list[str] = []
        for word in sys.argv[1:] if args is None else args:
            name, equals, value = word.partition("=")
            flag = name.replace("_", "-")  # as MLproject has it
            if joined and joined[-1] in self._flags and word not in self._flags:
                if word == "--":  # argparse would drop it and give an empty list
                    self.error(f"argument {joined[-1]}: expected a value, got '--'")
                joined[-1] += f"={word}"
            elif flag in self._flags or word in HELP:
                joined.append(flag + equals + value)
            else:
                unknown.append(word)
        if unknown and not HELP & set(joined):
            self.error(self._why_unknown(unknown))
        for word in joined:
            flag, _, value = word.partition("=")
            if any("\ud800" <= letter <= "\udfff" for letter in value):  # other bytes
                self.error(f"argument {flag}: expected text in UTF-8, got {value!a}")
        return super().parse_known_args(joined, namespace)

    def _why_unknown(self, words: Sequence[str]) -> str:
        """Every name among the words that is no parameter's, with the nearest that is one."""
        known = [_as_parameter(flag) for flag in self._flags]
        names = [_as_parameter(word.partition("=")[0]) for word in words if word.startswith("--")]
        said = []
        for name in filter(None, names):
            near = get_close_matches(name.lower(), known, n=1, cutoff=0.5)
            said.append(
                f"there is no parameter {name}" + (f": did you mean {near[0]}?" if near else "")
            )
        return "; ".join(said) or f"expected --name value, got {' '.join(words)!r}"

    def error(self, message: str):
        text = message.removeprefix("argument --")
        name, colon, rest = text.partition(": ")
        if text != message and colon:
            text = f"{_as_parameter(name)}: {rest}"
        elif name == "the following arguments are required":
            text = f"expected a value for {', '.join(map(_as_parameter, rest.split(', ')))}"
        raise OptionError(f"{text} (see `{self.prog} --help`)")


def _as_parameter(flag: str) -> str:
    """As MLproject has it: `--like-rule` is `like_rule`."""
    return flag.removeprefix("--").replace("-", "_")


def whole_number(minimum: int, maximum: int = LARGEST) -> Callable[[str], int]:
    """Type of an integer from `minimum` to `maximum`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not minimum <= value <= maximum:
            has_end = maximum < LARGEST or (value is not None and value > maximum)
            bounds = f"from {minimum}" + (f" to {maximum}" if has_end else " up")
            raise argparse.ArgumentTypeError(f"expected a whole number {bounds}, got {text!r}")
        return value

    return parse


def positive_number(text: str) -> float:
    """Type of a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def auto_or_positive_number(text: str) -> float | None:
    """Type of `auto`, which is None, or a finite number above 0."""
    if text.strip().lower() == "auto":
        return None
    try:
        return positive_number(text)
    except argparse.ArgumentTypeError:
        message = f"expected 'auto' or a number above 0, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def number(minimum: float, maximum: float = math.inf) -> Callable[[str], float]:
    """Type of a finite number from `minimum` to `maximum`, both allowed."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum or value == math.inf:
            bounds = f"from {minimum:g}" + (f" to {maximum:g}" if maximum < math.inf else " up")
            raise argparse.ArgumentTypeError(f"expected a number {bounds}, got {text!r}")
        return value

    return parse


def auto_or(parse: Callable[[str], object]) -> Callable[[str], object]:
    """Type of `auto`, which is None, or what `parse` takes."""

    def parse_or_none(text: str) -> object:
        return None if text.strip().lower() == "auto" else parse(text)

    if hasattr(parse, "metavar"):
        parse_or_none.metavar = "{auto," + parse.metavar.removeprefix("{")
    return parse_or_none


def whole_numbers(minimum: int, maximum: int = LARGEST) -> Callable[[str], tuple[int, ...]]:
    """Type of one whole number or several, joined by commas: `96`, `64,96,128`."""
    parse = whole_number(minimum, maximum)
    return lambda text: tuple(parse(part.strip()) for part in text.split(","))


def processes(text: str) -> int:
    """Type of how many processes; where torchrun has started this one, it is torchrun's number."""
    given = whole_number(1, MAX_PROCESSES)(text)
    if is_distributed() and given not in (1, world_size()):
        message = f"expected 1 or {world_size()}, as many as torchrun has started, got {given}"
        raise argparse.ArgumentTypeError(message)
    return world_size() if is_distributed() else given


def run_id_or_nothing(text: str) -> str:
    """Type of a run's id, or of none."""
    if text and not re.fullmatch("[0-9a-f]{32}", text.strip()):
        message = f"expected a run's id, 32 of the characters 0-9 and a-f, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return text.strip()


def run_ids(text: str) -> tuple[str, ...]:
    """Type of `best`, which is no id at all, or two or more run ids joined by commas."""
    ids = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if ids == ("best",):
        return ()
    if len(ids) < 2:
        message = f"expected best, or two or more run ids joined by commas, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return ids


def boolean(text: str) -> bool:
    """Type of a yes or no, as MLproject and people write it: true, True, 1, yes, on."""
    word = text.strip().lower()
    if word not in TRUE + FALSE:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return word in TRUE


def one_of(*choices: str) -> Callable[[str], str]:
    """Type of one of some words; the message lists them and the nearest."""

    def parse(text: str) -> str:
        if text not in choices:
            near = get_close_matches(text.lower(), choices, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            message = f"expected one of {', '.join(choices)}; got {text!r}{hint}"
            raise argparse.ArgumentTypeError(message)
        return text

    parse.metavar = "{" + ",".join(choices) + "}"
    return parse


def words(what: str) -> Callable[[str], str]:
    """Type of a text that may not be blank; `what` names it in the message."""

    def parse(text: str) -> str:
        if not text.strip():
            raise argparse.ArgumentTypeError(f"expected {what}, got nothing")
        return text.strip()

    return parse


def model_name(text: str) -> str:
    """Type of a registered model's name, as MLflow's registry takes it."""
    if not text.strip() or "/" in text or ":" in text:
        raise argparse.ArgumentTypeError(f"expected a name without '/' and ':', got {text!r}")
    return text.strip()


def version(text: str) -> str:
    """Type of a registered version: its number, or a word for one."""
    word = text.strip()
    if word not in ("challenger", "previous") and not re.fullmatch("[1-9][0-9]{0,8}", word):
        message = f"expected a version's number, challenger or previous, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return word


def add_ratings(parser: Parser, default: str) -> None:
    """The parameter `ratings`: which data."""
    parser.add(
        "ratings",
        check_ratings_argument,
        default,
        "ml-latest-small (downloaded once), sample (built in), or the path of a folder or zip "
        "with ratings.csv and movies.csv in MovieLens' layout",
    )


def add_like_rule(parser: Parser) -> None:
    """The parameter `like_rule`: what counts as a like."""
    what = "what a like is: user_mean, user_median or threshold:<stars>"
    parser.add("like_rule", check_like_rule, "user_mean", what)


def add_likes(parser: Parser) -> None:
    """The parameters of a fit's data: a matrix that is there, or ratings and what a like is."""
    what = "runs:/<run id>/matrix of build_matrix; brings ratings, like rule and weighting with it"
    parser.add("matrix", str, "", what)
    add_ratings(parser, "ml-latest-small")
    add_like_rule(parser)


def add_weighting(parser: Parser) -> None:
    """The parameters of how X weighs likes; the defaults are the published X."""
    what = "what a user's likes count: 1, or 1/√n or 1/n of a user with n likes"
    parser.add("user_weight", one_of(*USER_WEIGHTS), "none", what)
    what = "errors are measured in (likes of i · likes of j) to this power; 0.5: as by chance"
    parser.add("item_power", number(0, 1), 0.0, what)


def add_fit(parser: Parser) -> None:
    """The parameters of a fit, apart from optimizer and learning rate."""
    parser.add("dim", whole_number(1, 100_000), 100, "length of a movie's vector")
    parser.add("epochs", whole_number(1), 150, "updates of all vectors (exact: rounds at most)")
    parser.add("objective", one_of(*OBJECTIVES), "factored", "dense is the published form")
    parser.add("init_scale", positive_number, 1.0, "standard deviation of the random start")


def add_dataset(parser: Parser, default: str) -> None:
    """The parameter `dataset`: which images."""
    parser.add(
        "dataset",
        check_dataset_argument,
        default,
        "cifar10 (downloaded once), sample (digits, built in), or folder:<path> with "
        "train/<class>/ and test/<class>/, or <class>/ alone, split by seed",
    )


def add_weights(parser: Parser, default: str) -> None:
    """The parameter `weights`: what a network starts from."""
    what = "imagenet (torchvision's, downloaded once), none, or the path of a state dict"
    parser.add("weights", words("imagenet, none or a path"), default, what)


def add_images(parser: Parser) -> None:
    """The parameters that say which images, how they are split, and which network sees them."""
    add_dataset(parser, "cifar10")
    parser.add("split_seed", whole_number(0), 0, "of the split into training and validation")
    for part in ("train", "val", "test"):
        what = f"so many {part} images, stratified; 0 for all"
        parser.add(f"{part}_limit", whole_number(0), 0, what)

    parser.add("backbone", one_of(*BACKBONES), "resnet18", "torchvision's network")
    add_weights(parser, "imagenet")


def add_resolution(parser: Parser, default: int) -> None:
    """The parameter `resolution`, one number."""
    side = whole_number(MIN_RESOLUTION, MAX_RESOLUTION)
    parser.add("resolution", side, default, "pixels a side that the network sees")


def add_linear_probe(parser: Parser) -> None:
    """The parameters of the logistic regression on features."""
    rates = ", ".join(f"{name} {lr:g}" for name, lr in LINEAR_PROBE_LR.items())
    parser.add("optimizer", one_of(*LINEAR_PROBE_LR), "adam", "of the logistic regression")
    parser.add("lr", auto_or(positive_number), "auto", f"learning rate; auto: {rates}")
    parser.add("weight_decay", number(0), 0.001, "L2 penalty of its weights")
    parser.add("epochs", whole_number(1), 15, "passes over the features")
    parser.add(
        "batch_size",
        whole_number(1),
        256,
        "images an update, fewer of small data (lbfgs: all)",
    )


def add_recipe(parser: Parser) -> None:
    """The parameters of fine-tuning; `auto`, which is None, is the recipe's own value."""
    parser.add("recipe", one_of(*RECIPES), "fast", "fast, or notebook: the published one")
    share = number(0, 1)
    resolutions = whole_numbers(MIN_RESOLUTION, MAX_RESOLUTION)
    for name, type, what in (
        ("optimizer", one_of(*OPTIMIZERS), "the optimizer"),
        ("lr", positive_number, "its highest learning rate"),
        ("momentum", share, "of sgd and rmsprop; first moment of adam and adamw"),
        ("nesterov", boolean, "Nesterov's momentum, with sgd"),
        ("weight_decay", number(0), "on layers' weights, not on biases and norms"),
        ("schedule", one_of(*SCHEDULES), "of the learning rate"),
        ("warmup", share, "share of all steps in which one_cycle rises"),
        ("step_epochs", whole_number(1), "epochs after which schedule=step divides by ten"),
        ("epochs", whole_number(1), "passes over the training images"),
        ("batch_size", whole_number(2), "images an update"),
        ("resolution", resolutions, "pixels a side, or several, rising, as 64,96,128"),
        ("crop_pct", number(0.1, 1), "side of the middle crop of validation and test images"),
        ("augment", one_of(*AUGMENTATIONS), "random changes of training images"),
        ("label_smoothing", share, "share of the truth that is spread over all classes"),
        ("ema", share, "decay of the weights' moving average, a step; 0 for none"),
        ("flip_view", boolean, "scores are the mean over an image and its mirror image"),
        ("freeze", one_of(*FREEZE), "what is not trained, with all that comes before it"),
    ):
        values = "; ".join(
            f"{name_of}: {value_as_text(getattr(recipe, name))}"
            for name_of, recipe in RECIPES.items()
        )
        parser.add(name, auto_or(type), "auto", f"{what}; {values}")


def add_registration(parser: Parser, name: str) -> None:
    """The parameters that say whether and how the model is registered."""
    parser.add("register", boolean, False, "register the model at the end")
    parser.add("model_name", model_name, name, "registered model to add it to")
    parser.add("promote", one_of(*PROMOTE), "if_better", "when a version becomes champion")


def add_device(parser: Parser, what: str) -> None:
    """The parameter `device`: where the tensors are."""
    parser.add("device", one_of("auto", "cpu", "cuda"), "auto", what)


def add_precision(parser: Parser) -> None:
    """The parameter `precision`: in how many bits a network multiplies."""
    what = (
        "of the layers' products; auto: bfloat16 where the processor has it, float16 on older GPUs"
    )
    parser.add("precision", one_of(*PRECISIONS), "auto", what)


def add_processes(parser: Parser) -> None:
    """The parameter `processes`: how many work on one run."""
    what = "that share the work on this host, started by torchrun; 1 under a torchrun of your own"
    parser.add("processes", processes, "1", what)


def exit_with(main: Callable[[Sequence[str] | None], None]) -> None:
    """Run an entry point as a process: what a user can put right is one line and exit code 1."""
    try:
        main(None)
    except EmbedlabError as error:
        if not is_main_process():
            time.sleep(SECONDS_FOR_MAIN_PROCESS)  # which ends this process with its own
        print(f"embedlab: {error}", file=sys.stderr)
        if is_main_process():
            with suppress(KeyboardInterrupt):
                _close_open_run(error)
        sys.exit(1)
    except KeyboardInterrupt:
        if is_main_process():
            print("embedlab: stopped by Ctrl-C; the run keeps what it had logged.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # `... | head`: nobody reads on, and nothing is left to flush to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _close_open_run(error: EmbedlabError) -> None:
    """Close a run that no `start_run` of this process closes, and record why."""
    if isinstance(error, MainProcessKilledError):
        from embedlab.tracking.run import mark_dead_runs_here

        mark_dead_runs_here()
    # `start_run` removes the variable when it adopts the run that `mlflow run` has made.
    elif "MLFLOW_RUN_ID" in os.environ and not isinstance(error, TrackingError):
        from embedlab.tracking.run import end_refused_run

        end_refused_run(error)
