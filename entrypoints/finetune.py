"""Fine-tune the whole network by a recipe -> test report and model, logged; resumable."""

from collections.abc import Sequence
from dataclasses import replace

from embedlab.cli import arguments
from embedlab.cli.parser import Parser, run_main
from embedlab.cli.types import integer, run_id_or_nothing
from embedlab.distributed.launch import launch_workers
from embedlab.vision.options import SPLIT_PARAMETERS
from embedlab.vision.training import recipes

CHECKPOINTED_PARAMETERS = (
    *SPLIT_PARAMETERS, *recipes.RECIPE_FIELDS, "recipe", "backbone", "weights", "seed", "precision",
)  # fmt: skip


def build_parser() -> Parser:
    parser = Parser(
        "finetune",
        "Train a pretrained network on images. A recipe sets every hyperparameter; 'auto' keeps "
        "its value. resume=<run id> continues a stopped run after its last complete epoch.",
    )
    arguments.add_images(parser)
    arguments.add_recipe(parser)
    parser.add("seed", integer(0), 0, "seed of a random head, image order and augmentation")
    arguments.add_device(parser, "where the network is trained")
    arguments.add_precision(parser)
    arguments.add_processes(parser)
    help_text = "id of a run to continue; only device, processes and registration may change"
    parser.add("resume", run_id_or_nothing, "", help_text)
    arguments.add_registration(parser, "image-classifier")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    params = vars(args)
    settings = {name: params[name] for name in CHECKPOINTED_PARAMETERS}
    recipes.check_settings(settings)
    if launch_workers("finetune", args.processes, argv):
        return

    from embedlab.cli.console import EpochTable, console, time_estimate, work_progress
    from embedlab.device import choose_precision
    from embedlab.distributed.collectives import broadcast, process_group
    from embedlab.tracking.lifecycle import start_run
    from embedlab.vision.backbone import attach_head, load_backbone, new_head
    from embedlab.vision.inference import ImagePipeline
    from embedlab.vision.training.checkpoint import Checkpoints
    from embedlab.vision.training.linear_probe import probe_head
    from embedlab.vision.training.trainer import Trainer
    from embedlab.vision.training.work_estimate import cheaper_options
    from embedlab.workflows.conflicts import refuse_conflicts
    from embedlab.workflows.images import classifier_report, data, training_log

    run_name = f"finetune resume {args.resume[:8]}" if args.resume else f"finetune {args.recipe}"
    with (
        start_run("finetune", run_name, params) as run,
        Checkpoints(run.id, args.resume).hint_at_resume(console.print) as checkpoints,
        process_group(params) as device,
    ):
        state = checkpoints.load_resumed()
        settings |= state.get("settings", {})
        settings["precision"] = broadcast(lambda: choose_precision(settings["precision"], device))
        with work_progress("decode images") as on_progress:
            images, split, messages = data.load_images(run, settings, on_progress)
        n_train, seed = len(split.train), settings["seed"]
        is_sensitive = state.get("is_mirror_sensitive", False)
        options = recipes.resolve_options(settings, n_train, images.side, is_sensitive)
        if state:
            resumed = settings | vars(options)
            refuse_conflicts(f"resume={args.resume}", resumed, parser.non_default(args))
        run.log_params({"device": device, **settings})
        console.print("\n".join(messages))
        backbone = load_backbone(settings["backbone"], settings["weights"], seed)
        preprocessing = backbone.preprocessing(options.resolution[-1], options.crop_pct)
        pipeline = ImagePipeline(backbone.network, preprocessing, device, settings["precision"])
        if options.head == "linear_probe" and not state:
            compares = recipes.chooses_mirroring(settings)
            with work_progress("linear probe") as show:
                probed = probe_head(backbone, pipeline, images, split, compares, show)
            head, probe_seconds, is_sensitive = probed
            options = recipes.resolve_options(settings, n_train, images.side, is_sensitive)
        else:
            head, probe_seconds = new_head(backbone, len(images.classes), seed), 0.0
        attach_head(backbone, head)
        pipeline = replace(pipeline, flip_view=options.flip_view)
        run.log_params_as_resolved(vars(options) | {"batch_size": min(options.batch_size, n_train)})
        if options.recipe == "auto":
            console.print(recipes.explain_auto(n_train, images.side, settings, options))
        data.log_training_images(run, images, split, options.augment, options.resolution[-1])

        trainer = Trainer(pipeline, images, split, options, seed, probe_seconds)
        if state:
            trainer.load_state(state)
            run.set_tags({"resumed_from": args.resume})
        cheaper = [] if state else cheaper_options(settings, n_train, len(split.val), images.side)
        on_estimate = time_estimate(f"{options.label}, {device}, {settings['precision']}", cheaper)
        table = EpochTable(("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr"))
        with (
            training_log.TrainingLog(run, options.label, trainer) as log,
            work_progress(options.label, on_estimate) as on_progress,
        ):
            # Saved before the first epoch, too, so that a run stopped in it keeps its head.
            run_state = {"settings": settings, "is_mirror_sensitive": is_sensitive}
            checkpoints.save(trainer.state() | run_state)
            for record, predictions in trainer.train(on_progress):
                checkpoints.save(trainer.state() | run_state)
                log.log_epoch(record, predictions)
                table.add(record, is_best=trainer.best.epoch == record.epoch)
        test = pipeline.predict(images, split.test)
        if test is None:  # only rank 0 has the predictions and continues
            return
        result = classifier_report.TrainedClassifier(trainer, pipeline, f"finetune {options.label}")
        messages = classifier_report.log_and_publish(run, result, test, params | settings)
        checkpoints.delete()
    console.print("\n".join(messages))


if __name__ == "__main__":
    run_main(main)
