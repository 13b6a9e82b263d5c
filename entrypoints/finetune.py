"""The whole network trained by a recipe -> test report, logged, resumable and served."""

from embedlab.cli.arguments import (
    add_device,
    add_images,
    add_precision,
    add_processes,
    add_recipe,
    add_registration,
)
from embedlab.cli.parser import Parser, exit_with
from embedlab.cli.types import run_id_or_nothing, whole_number
from embedlab.distributed.launch import is_main_process, launch_workers
from embedlab.progress import combine_callbacks
from embedlab.vision.options import DATA, RECIPE_FIELDS, make_options

SETTINGS = (*DATA, "backbone", "weights", "recipe", *RECIPE_FIELDS, "seed", "precision")


def build_parser() -> Parser:
    parser = Parser(
        "finetune",
        "Train a pretrained network on images. A recipe has a value for every ingredient, which "
        "'auto' takes. A run that was stopped goes on with resume=<run id> after its last epoch.",
    )
    add_images(parser)
    add_recipe(parser)
    parser.add("seed", whole_number(0), 0, "of the head, the order and the random changes")
    add_device(parser, "where the network is trained")
    add_precision(parser)
    add_processes(parser)
    what = "id of a stopped run; all but device, processes and registration is its own"
    parser.add("resume", run_id_or_nothing, "", what)
    add_registration(parser, "image-classifier")
    return parser


def main(argv=None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    settings = {name: getattr(args, name) for name in SETTINGS}
    options = make_options(**{name: settings[name] for name in ("recipe", *RECIPE_FIELDS)})
    label = f"resume {args.resume[:8]}" if args.resume else options.label
    if launch_workers("finetune", args.processes, argv):
        return

    from embedlab.cli.console import console, print_step, time_estimate, work_progress
    from embedlab.distributed.collectives import broadcast, local_main_first, process_group
    from embedlab.tracking.run import refuse_contradictions, start_run
    from embedlab.vision.inference import choose_precision
    from embedlab.vision.models.backbone import classifier, load_backbone, new_head
    from embedlab.vision.training.checkpoint import Checkpoints
    from embedlab.vision.training.trainer import cheaper_options, finetune, predict
    from embedlab.workflows import image_runs
    from embedlab_serving.preprocess import Preprocessing

    given = vars(args)
    with start_run("finetune", f"finetune {label}", given) as run, process_group(given) as device:
        state = broadcast(Checkpoints(args.resume).load) if args.resume else None
        settings = state["settings"] if state else settings
        options = make_options(**{name: settings[name] for name in ("recipe", *RECIPE_FIELDS)})
        refuse_contradictions(f"resume={args.resume}", settings | vars(options), parser.given(args))
        precision = broadcast(lambda: choose_precision(settings["precision"], device))
        settings["precision"] = precision
        run.log_params({"device": device, **settings})
        run.log_resolved(vars(options))
        with work_progress("decode images") as show:
            images, split, about_data = image_runs.load_images(run, settings, show)
        console.print("\n".join(about_data))

        with local_main_first():
            backbone = load_backbone(settings["backbone"], settings["weights"], settings["seed"])
        head = new_head(backbone, len(images.classes), settings["seed"])
        network = classifier(backbone, head)
        resolution = options.resolution[-1]
        preprocessing = Preprocessing(resolution, options.crop_pct, backbone.mean, backbone.std)
        image_runs.log_training_images(run, images, split, options.augment, resolution)

        cheaper = cheaper_options(options, len(split.train), len(split.val))
        on_estimate = time_estimate(f"{options.label}, {device}, {precision}", cheaper)
        checkpoints = Checkpoints(run.id)
        log = image_runs.EpochLog(run, images, split, options.label)
        shown = work_progress(options.label, on_estimate)
        with checkpoints.kept_to_go_on(console.print), log, shown as show:
            tuned = finetune(
                network,
                images,
                split,
                preprocessing,
                options,
                settings["seed"],
                device,
                precision,
                on_step=combine_callbacks(log.on_step, print_step),
                on_work=show,
                on_predictions=log.on_predictions,
                save=lambda state: checkpoints.save(state | {"settings": settings}),
                resume_from=state,
            )
        run.set_tags({"resumed_from": args.resume} if args.resume else {})
        test = predict(network, images, split.test, preprocessing, options, device, precision)
        if not is_main_process():
            return
        trained = image_runs.Trained(
            network,
            preprocessing,
            tuned.epoch,
            tuned.score,
            tuned.seconds,
            settings["backbone"],
            options.flip_view,
            f"finetune {options.label}",
        )
        name = args.model_name if args.register else None
        said = image_runs.finish(run, trained, test, images, split, name, args.promote)
        for training in filter(None, (run.id, args.resume)):
            Checkpoints(training).delete()
    console.print("\n".join(said))


if __name__ == "__main__":
    exit_with(main)
