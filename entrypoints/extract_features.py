"""Frozen backbone -> cached features -> logistic regression -> test report, logged and served."""

from embedlab.command_line import (
    Parser,
    add_device,
    add_head,
    add_pictures,
    add_precision,
    add_processes,
    add_registration,
    add_resolution,
    boolean,
    exit_with,
    number,
    one_of,
    whole_number,
)
from embedlab.step import to_each
from embedlab.torchrun import is_first, starts_others
from embedlab.vision.options import MAPS, HeadOptions


def build_parser() -> Parser:
    parser = Parser(
        "extract_features",
        "Use a pretrained network as it is: its penultimate layer is an embedding of pictures, "
        "computed once and cached, and a logistic regression on it (nn.Linear) is the classifier. "
        "Logs every epoch, the test report, maps of the embedding, and a model that can be served.",
    )
    add_pictures(parser)
    add_resolution(parser, 128)
    parser.add("crop_pct", number(0.1, 1.0), 1.0, "side of the middle crop; 0.875 as published")
    parser.add("flip_view", boolean, False, "the mean over a picture and its mirror image")
    add_head(parser)
    parser.add("embedding_map", one_of(*MAPS), "pca", "how the embedding is drawn in the plane")
    parser.add("seed", whole_number(0), 0, "of the order of batches, and of weights=none")
    add_device(parser, "where the network runs")
    add_precision(parser)
    add_processes(parser)
    add_registration(parser, "image-classifier")
    return parser


def main(argv=None) -> None:
    args = build_parser().parse_args(argv)
    options = HeadOptions(args.optimizer, args.lr, args.weight_decay, args.epochs, args.batch_size)
    if starts_others("extract_features", args.processes, argv):
        return

    from embedlab.console import console, epochs_shown, progress_shown
    from embedlab.ranks import first_of_host, from_first, joined
    from embedlab.tracking import picture_runs
    from embedlab.tracking.runs import start_run
    from embedlab.vision.backbone import classifier, load_backbone
    from embedlab.vision.evaluate import predictions_of
    from embedlab.vision.features import extract_features
    from embedlab.vision.forward import choose_precision
    from embedlab.vision.head import fit_head, head_scores
    from embedlab.vision.preprocess import Preprocessing

    label = f"features {args.resolution}px {options.label}"
    with start_run("extract_features", label, vars(args)) as run, joined(vars(args)) as device:
        precision = from_first(lambda: choose_precision(args.precision, device))
        run.log_params({"device": device, "precision": precision})
        with progress_shown("decode pictures") as show:
            pictures, split = picture_runs.load_pictures(run, vars(args), show)
        console.print(str(pictures))
        batch_size = options.batch_size_for(len(split.train))
        resolved = {"resolution": args.resolution, "batch_size": batch_size}
        run.log_resolved(vars(options) | resolved)

        picture_runs.log_training_pictures(run, pictures, split, "none", args.resolution)
        with first_of_host():
            backbone = load_backbone(args.backbone, args.weights, args.seed)
        preprocessing = Preprocessing(args.resolution, args.crop_pct, backbone.mean, backbone.std)
        with progress_shown("extract features") as show:
            features = extract_features(
                backbone, pictures, split, preprocessing, device, precision, args.flip_view, show
            )
        if not is_first():
            return
        run.set_tags({"features_key": features.key, "features_cached": features.was_cached})
        run.log_metrics({"time/features_seconds": features.seconds})
        embedding = features.parts["test"]
        picture_runs.log_embedding(run, embedding, pictures, split.test, args.embedding_map)

        log = picture_runs.EpochLog(run, pictures, split, label)
        with log, epochs_shown(label, options.epochs, "val/accuracy") as show:
            head = fit_head(
                (features.parts["train"], pictures.labels[split.train]),
                (features.parts["val"], pictures.labels[split.val]),
                len(pictures.classes),
                options,
                args.seed,
                device,
                on_step=to_each(log.on_step, show),
                on_scores=lambda epoch, scores: log.on_predictions(
                    epoch, predictions_of(scores, pictures.labels, split.val)
                ),
            )
        trained = picture_runs.Trained(
            classifier(backbone, head.layer),
            preprocessing,
            head.epoch,
            head.score,
            features.seconds + head.seconds,
            args.backbone,
            args.flip_view,
            label,
        )
        scores = head_scores(head.layer, embedding)
        test = predictions_of(scores, pictures.labels, split.test)
        name = args.model_name if args.register else None
        said = picture_runs.finish(run, trained, test, pictures, split, name, args.promote)
    console.print("\n".join(said))


if __name__ == "__main__":
    exit_with(main)
