"""Frozen backbone -> cached features -> logistic regression -> test report and model, logged."""

from collections.abc import Sequence

from embedlab.cli import arguments
from embedlab.cli.parser import Parser, run_main
from embedlab.cli.types import boolean, integer, number, one_of
from embedlab.distributed.launch import launch_workers
from embedlab.vision.options import IMAGE_MAPS, LinearProbeOptions, check_backbone


def build_parser() -> Parser:
    parser = Parser(
        "extract_features",
        "Use a pretrained network as it is: its penultimate layer is an embedding of images, "
        "computed once and cached, and a logistic regression on it (nn.Linear) is the classifier. "
        "Logs every epoch, the test report, maps of the embedding, and a model that can be served.",
    )
    arguments.add_images(parser)
    arguments.add_resolution(parser, 128)
    help_text = "side of the centre crop, as a fraction; the course notebook's: 0.875"
    parser.add("crop_pct", number(0.1, 1.0), 1.0, help_text)
    help_text = "mean embedding of an image and its mirror image"
    parser.add("flip_view", boolean, False, help_text)
    arguments.add_linear_probe(parser)
    parser.add(
        "embedding_map", one_of(*IMAGE_MAPS), "pca", "how the embedding is drawn in the plane"
    )
    parser.add("seed", integer(0), 0, "seed of the batches' order, and of weights=none")
    arguments.add_device(parser, "where the network runs")
    arguments.add_precision(parser)
    arguments.add_processes(parser)
    arguments.add_registration(parser, "image-classifier")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    params = vars(args)
    options = LinearProbeOptions(
        optimizer=args.optimizer,
        lr=args.lr,
        weight_decay=args.weight_decay,
        epochs=args.epochs,
        batch_size=args.batch_size,
    )
    check_backbone(args.backbone, [args.resolution])
    if launch_workers("extract_features", args.processes, argv):
        return

    from embedlab.cli.console import console, epoch_progress, work_progress
    from embedlab.device import choose_precision
    from embedlab.distributed.collectives import broadcast, process_group
    from embedlab.tracking.lifecycle import start_run
    from embedlab.vision.backbone import attach_head, load_backbone
    from embedlab.vision.evaluation.metrics import predictions_of
    from embedlab.vision.features import extract_features
    from embedlab.vision.inference import ImagePipeline
    from embedlab.vision.training.linear_probe import LinearProbe, probe_logits
    from embedlab.workflows.images import classifier_report, data, training_log

    label = f"features {args.resolution}px {options.label}"
    with start_run("extract_features", label, params) as run, process_group(params) as device:
        precision = broadcast(lambda: choose_precision(args.precision, device))
        run.log_params({"device": device, "precision": precision})
        with work_progress("decode images") as on_progress:
            images, split, messages = data.load_images(run, params, on_progress)
        console.print("\n".join(messages))
        batch_size = options.batch_size_for(len(split.train))
        resolved = {"resolution": args.resolution, "batch_size": batch_size}
        run.log_params_as_resolved(vars(options) | resolved)

        data.log_training_images(run, images, split, "none", args.resolution)
        backbone = load_backbone(args.backbone, args.weights, args.seed)
        preprocessing = backbone.preprocessing(args.resolution, args.crop_pct)
        pipeline = ImagePipeline(backbone.network, preprocessing, device, precision, args.flip_view)
        with work_progress("extract features") as on_progress:
            features = extract_features(backbone.digest, pipeline, images, split, on_progress)
        if features is None:  # only rank 0 has them and continues
            return
        run.set_tags({"features_key": features.key, "features_cached": features.was_cached})
        run.log_metrics({"time/features_seconds": features.seconds})

        probe = LinearProbe(features, images, split, options, args.seed, device)
        with (
            training_log.TrainingLog(run, label, probe) as log,
            epoch_progress(label, options.epochs, "val/accuracy") as print_progress,
        ):
            for record, predictions in probe.train():
                log.log_epoch(record, predictions)
                print_progress(record)
        head, test_features = probe.head(), features.parts["test"]
        test = predictions_of(probe_logits(head, test_features), images.labels, split.test)
        classifier_report.log_embedding(run, images, test_features, test, args.embedding_map)
        attach_head(backbone, head)  # to the network of `pipeline`, whose outputs are logits now
        trained = classifier_report.TrainedClassifier(probe, pipeline, label)
        messages = classifier_report.log_and_publish(run, trained, test, params)
    console.print("\n".join(messages))


if __name__ == "__main__":
    run_main(main)
