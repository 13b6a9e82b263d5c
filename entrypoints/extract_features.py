"""Frozen backbone -> cached features -> logistic regression -> test report, logged and served."""

from embedlab.cli.arguments import (
    add_device,
    add_images,
    add_linear_probe,
    add_precision,
    add_processes,
    add_registration,
    add_resolution,
)
from embedlab.cli.parser import Parser, exit_with
from embedlab.cli.types import boolean, number, one_of, whole_number
from embedlab.distributed.launch import is_main_process, launch_workers
from embedlab.progress import combine_callbacks
from embedlab.vision.options import MAPS, LinearProbeOptions


def build_parser() -> Parser:
    parser = Parser(
        "extract_features",
        "Use a pretrained network as it is: its penultimate layer is an embedding of images, "
        "computed once and cached, and a logistic regression on it (nn.Linear) is the classifier. "
        "Logs every epoch, the test report, maps of the embedding, and a model that can be served.",
    )
    add_images(parser)
    add_resolution(parser, 128)
    parser.add("crop_pct", number(0.1, 1.0), 1.0, "side of the middle crop; 0.875 as published")
    parser.add("flip_view", boolean, False, "the mean over an image and its mirror image")
    add_linear_probe(parser)
    parser.add("embedding_map", one_of(*MAPS), "pca", "how the embedding is drawn in the plane")
    parser.add("seed", whole_number(0), 0, "of the order of batches, and of weights=none")
    add_device(parser, "where the network runs")
    add_precision(parser)
    add_processes(parser)
    add_registration(parser, "image-classifier")
    return parser


def main(argv=None) -> None:
    args = build_parser().parse_args(argv)
    options = LinearProbeOptions(
        args.optimizer, args.lr, args.weight_decay, args.epochs, args.batch_size
    )
    if launch_workers("extract_features", args.processes, argv):
        return

    from embedlab.cli.console import console, epoch_progress, work_progress
    from embedlab.distributed.collectives import broadcast, local_main_first, process_group
    from embedlab.tracking.run import start_run
    from embedlab.vision.evaluation.metrics import predictions_of
    from embedlab.vision.features import extract_features
    from embedlab.vision.inference import choose_precision
    from embedlab.vision.models.backbone import classifier, load_backbone
    from embedlab.vision.models.linear_probe import fit_linear_probe, probe_logits
    from embedlab.workflows import image_runs
    from embedlab_serving.preprocess import Preprocessing

    label = f"features {args.resolution}px {options.label}"
    with (
        start_run("extract_features", label, vars(args)) as run,
        process_group(vars(args)) as device,
    ):
        precision = broadcast(lambda: choose_precision(args.precision, device))
        run.log_params({"device": device, "precision": precision})
        with work_progress("decode images") as show:
            images, split, about_data = image_runs.load_images(run, vars(args), show)
        console.print("\n".join(about_data))
        batch_size = options.batch_size_for(len(split.train))
        resolved = {"resolution": args.resolution, "batch_size": batch_size}
        run.log_resolved(vars(options) | resolved)

        image_runs.log_training_images(run, images, split, "none", args.resolution)
        with local_main_first():
            backbone = load_backbone(args.backbone, args.weights, args.seed)
        preprocessing = Preprocessing(args.resolution, args.crop_pct, backbone.mean, backbone.std)
        with work_progress("extract features") as show:
            features = extract_features(
                backbone, images, split, preprocessing, device, precision, args.flip_view, show
            )
        if not is_main_process():
            return
        run.set_tags({"features_key": features.key, "features_cached": features.was_cached})
        run.log_metrics({"time/features_seconds": features.seconds})
        embedding = features.parts["test"]
        image_runs.log_embedding(run, embedding, images, split.test, args.embedding_map)

        log = image_runs.EpochLog(run, images, split, label)
        with log, epoch_progress(label, options.epochs, "val/accuracy") as show:
            head = fit_linear_probe(
                (features.parts["train"], images.labels[split.train]),
                (features.parts["val"], images.labels[split.val]),
                len(images.classes),
                options,
                args.seed,
                device,
                on_step=combine_callbacks(log.on_step, show),
                on_scores=lambda epoch, scores: log.on_predictions(
                    epoch, predictions_of(scores, images.labels, split.val)
                ),
            )
        trained = image_runs.Trained(
            classifier(backbone, head.layer),
            preprocessing,
            head.epoch,
            head.score,
            features.seconds + head.seconds,
            args.backbone,
            args.flip_view,
            label,
        )
        scores = probe_logits(head.layer, embedding)
        test = predictions_of(scores, images.labels, split.test)
        name = args.model_name if args.register else None
        said = image_runs.finish(run, trained, test, images, split, name, args.promote)
    console.print("\n".join(said))


if __name__ == "__main__":
    exit_with(main)
