"""Parameters that several entry points share, each with one name and type."""

from embedlab.cli import types
from embedlab.cli.parser import Parser
from embedlab.datasets.image_source import check_dataset_argument
from embedlab.datasets.movielens import check_ratings_argument
from embedlab.formatting import value_as_text
from embedlab.movies.options import OBJECTIVES, USER_WEIGHTS, check_like_rule
from embedlab.tracking.registry.promotion import PROMOTE
from embedlab.vision import options as vision
from embedlab.vision.training import recipes

# -- movies --------------------------------------------------------------------------------------


def add_ratings(parser: Parser, default: str) -> None:
    """The parameter `ratings`: the data set."""
    help_text = (
        "ml-latest-small (downloaded once), sample (built in), or the path of a folder or zip "
        "with ratings.csv and movies.csv in MovieLens' layout"
    )
    parser.add("ratings", check_ratings_argument, default, help_text)


def add_like_rule(parser: Parser) -> None:
    """The parameter `like_rule`: which ratings are likes."""
    help_text = "what a like is: user_mean, user_median or threshold:<stars>"
    parser.add("like_rule", check_like_rule, "user_mean", help_text)


def add_likes(parser: Parser) -> None:
    """The parameters of a fit's data: a saved matrix, or ratings and a like rule."""
    help_text = (
        "runs:/<run id>/matrix of build_matrix; brings ratings, like rule and weighting with it"
    )
    parser.add("matrix", str, "", help_text)
    add_ratings(parser, "ml-latest-small")
    add_like_rule(parser)


def add_weighting(parser: Parser) -> None:
    """The weights of likes in X; the defaults give plain counts."""
    help_text = "weight of a user with n likes: none 1, inverse_sqrt 1/√n, inverse 1/n"
    parser.add("user_weight", types.one_of(*USER_WEIGHTS), "none", help_text)
    help_text = "β: errors are divided by (likes of i · likes of j)^β; 0.5: Pearson residuals"
    parser.add("item_power", types.number(0, 1), 0.0, help_text)


def add_fit(parser: Parser) -> None:
    """The parameters of a fit, apart from optimizer and learning rate."""
    parser.add("dim", types.integer(1, 100_000), 100, "length of a movie's vector")
    parser.add(
        "epochs",
        types.integer(1),
        150,
        "number of updates of all vectors; exact: maximum number of rounds",
    )
    help_text = (
        "factored: from the likes; dense: the course notebook's form, from X. The cost is the same"
    )
    parser.add("objective", types.one_of(*OBJECTIVES), "factored", help_text)
    parser.add("init_scale", types.positive_number, 1.0, "standard deviation of the random start")


# -- images --------------------------------------------------------------------------------------


def add_dataset(parser: Parser, default: str) -> None:
    """The parameter `dataset`: the images."""
    help_text = (
        "cifar10 (downloaded once), sample (digits, built in), or folder:<path> with "
        "train/<class>/ and val/<class>/, test/<class>/ or both, or <class>/ alone, split by seed"
    )
    parser.add("dataset", check_dataset_argument, default, help_text)


def add_weights(parser: Parser, default: str) -> None:
    """The parameter `weights`: the network's initial weights."""
    help_text = "imagenet (torchvision's, downloaded once), none, or the path of a state dict"
    parser.add("weights", types.nonblank("imagenet, none or a path"), default, help_text)


def add_resolution(parser: Parser, default: int) -> None:
    """The parameter `resolution`, one number."""
    side = types.integer(vision.MIN_RESOLUTION, vision.MAX_RESOLUTION)
    parser.add("resolution", side, default, "side of the network's input in pixels")


def add_images(parser: Parser) -> None:
    """The parameters of the images, their split, and the backbone."""
    add_dataset(parser, "cifar10")
    help_text = "seed of the split into training, validation and test images"
    parser.add("split_seed", types.integer(0), 0, help_text)
    for part in ("train", "val", "test"):
        help_text = f"maximum number of {part} images, stratified; 0 for all"
        parser.add(f"{part}_limit", types.integer(0), 0, help_text)
    kind = "a classifier of torchvision whose last layer is linear"
    name = types.one_of(*vision.BACKBONES, expected=f"{kind} (see --help)")
    help_text = f"{kind}, as torchvision calls it: {', '.join(vision.FAMILIES)}"
    parser.add("backbone", name, "resnet18", help_text)
    add_weights(parser, "imagenet")


def add_linear_probe(parser: Parser) -> None:
    """The parameters of the logistic regression on features."""
    rates = ", ".join(f"{name} {lr:g}" for name, lr in vision.LINEAR_PROBE_LR.items())
    optimizers = types.one_of(*vision.LINEAR_PROBE_LR)
    parser.add("optimizer", optimizers, "adam", "optimizer of the logistic regression")
    parser.add("lr", types.auto_or(types.positive_number), "auto", f"learning rate; auto: {rates}")
    parser.add("weight_decay", types.number(0), 0.001, "L2 penalty of its weights")
    parser.add("epochs", types.integer(1), 15, "passes over the features")
    help_text = "maximum number of images per update; fewer in a small data set (lbfgs: all)"
    parser.add("batch_size", types.integer(1), 256, help_text)


def add_recipe(parser: Parser) -> None:
    """The parameters of fine-tuning; all but `recipe` parse `auto` to None, the recipe's value."""
    help_text = (
        "auto: chosen by the data; fast: SGD for eight epochs; notebook: the course notebook's"
    )
    parser.add("recipe", types.one_of(*recipes.RECIPES), "auto", help_text)
    resolutions = types.integers(vision.MIN_RESOLUTION, vision.MAX_RESOLUTION)
    for name, type, help_text in (
        ("head", types.one_of(*recipes.HEADS), "initialisation of the last layer"),
        ("batch_norm", types.one_of(*recipes.BATCH_NORM), "update or keep BatchNorm's statistics"),
        ("optimizer", types.one_of(*recipes.OPTIMIZERS), "the optimizer"),
        ("lr", types.positive_number, "its highest learning rate"),
        ("momentum", types.fraction, "momentum of sgd and rmsprop; β1 of adam and adamw"),
        ("nesterov", types.boolean, "Nesterov's momentum, with sgd"),
        ("weight_decay", types.number(0), "weight decay, except for biases and norm layers"),
        ("schedule", types.one_of(*recipes.SCHEDULES), "learning-rate schedule"),
        ("warmup", types.fraction, "fraction of all updates in which one_cycle rises"),
        ("step_epochs", types.integer(1), "epochs after which schedule=step divides by ten"),
        ("epochs", types.integer(1), "passes over the training images"),
        ("batch_size", types.integer(2), "images per update"),
        ("resolution", resolutions, "side in pixels, or several, rising, as 64,96,128"),
        ("crop_pct", types.number(0.1, 1), "side of the centre crop for scoring, as a fraction"),
        ("augment", types.one_of(*recipes.AUGMENTATIONS), "augmentation of training images"),
        ("label_smoothing", types.fraction, "share of the target spread over all classes"),
        ("ema", types.fraction, "decay per update of the weights' moving average; 0: none"),
        ("flip_view", types.boolean, "average the logits of an image and its mirror image"),
        ("freeze", types.one_of(*vision.FREEZE), "freeze all parts up to this one"),
    ):
        value_of = {
            recipe: value_as_text(getattr(options, name))
            for recipe, options in recipes.RECIPES.items()
        }
        if name in recipes.CHOSEN_BY_AUTO:
            value_of["auto"] = "by the data"
        values = "; ".join(f"{recipe}: {value}" for recipe, value in value_of.items())
        parser.add(name, types.auto_or(type), "auto", f"{help_text}; {values}")


def add_precision(parser: Parser) -> None:
    """The parameter `precision`: the dtype of the layers' products."""
    help_text = (
        "dtype of matrix products and convolutions; auto: bfloat16 where the processor has it, "
        "float16 on older GPUs"
    )
    parser.add("precision", types.one_of(*vision.PRECISIONS), "auto", help_text)


# -- both ----------------------------------------------------------------------------------------


def add_registration(parser: Parser, name: str) -> None:
    """The parameters that say whether and how the model is registered."""
    parser.add("register", types.boolean, False, "register the model at the end")
    help_text = "registered model to add it to"
    parser.add("model_name", types.model_name, name, help_text, only_with="register=true")
    help_text = "whether it becomes champion; if_better: if it beats the champion on the same data"
    promotions = types.one_of(*PROMOTE)
    parser.add("promote", promotions, "if_better", help_text, only_with="register=true")


def add_device(parser: Parser, help_text: str) -> None:
    """The parameter `device`: where the tensors are."""
    parser.add("device", types.one_of("auto", "cpu", "cuda"), "auto", help_text)


def add_processes(parser: Parser) -> None:
    """The parameter `processes`: the number of processes that share one run."""
    help_text = (
        "number of processes on this host, launched by torchrun; 1 if you start torchrun yourself"
    )
    parser.add("processes", types.processes, "1", help_text)
