"""The whole network trained by a recipe -> test report, logged, resumable and served."""

from embedlab.command_line import (
    Parser,
    add_device,
    add_pictures,
    add_precision,
    add_processes,
    add_recipe,
    add_registration,
    exit_with,
    run_id_or_nothing,
    whole_number,
)
from embedlab.step import to_each
from embedlab.torchrun import is_first, starts_others
from embedlab.vision.options import DATA, INGREDIENTS, options_of

SETTINGS = (*DATA, "backbone", "weights", "recipe", *INGREDIENTS, "seed", "precision")


def build_parser() -> Parser:
    parser = Parser(
        "finetune",
        "Train a pretrained network on pictures. A recipe has a value for every ingredient, which "
        "'auto' takes. A run that was stopped goes on with resume=<run id> after its last epoch.",
    )
    add_pictures(parser)
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
    options = options_of(**{name: settings[name] for name in ("recipe", *INGREDIENTS)})
    label = f"resume {args.resume[:8]}" if args.resume else options.label
    if starts_others("finetune", args.processes, argv):
        return

    from embedlab.console import console, estimate_shown, print_step, progress_shown
    from embedlab.ranks import first_of_host, from_first, joined
    from embedlab.tracking import picture_runs
    from embedlab.tracking.runs import refuse_contradictions, start_run
    from embedlab.vision.backbone import classifier, load_backbone, new_head
    from embedlab.vision.checkpoint import Checkpoints
    from embedlab.vision.finetune import cheaper_settings, finetune, predict
    from embedlab.vision.forward import choose_precision
    from embedlab.vision.preprocess import Preprocessing

    given = vars(args)
    with start_run("finetune", f"finetune {label}", given) as run, joined(given) as device:
        state = from_first(Checkpoints(args.resume).load) if args.resume else None
        settings = state["settings"] if state else settings
        options = options_of(**{name: settings[name] for name in ("recipe", *INGREDIENTS)})
        refuse_contradictions(f"resume={args.resume}", settings | vars(options), parser.given(args))
        precision = from_first(lambda: choose_precision(settings["precision"], device))
        settings["precision"] = precision
        run.log_params({"device": device, **settings})
        run.log_resolved(vars(options))
        with progress_shown("decode pictures") as show:
            pictures, split = picture_runs.load_pictures(run, settings, show)
        console.print(str(pictures))

        with first_of_host():
            backbone = load_backbone(settings["backbone"], settings["weights"], settings["seed"])
        head = new_head(backbone, len(pictures.classes), settings["seed"])
        network = classifier(backbone, head)
        resolution = options.resolution[-1]
        preprocessing = Preprocessing(resolution, options.crop_pct, backbone.mean, backbone.std)
        picture_runs.log_training_pictures(run, pictures, split, options.augment, resolution)

        cheaper = cheaper_settings(options, len(split.train), len(split.val))
        on_estimate = estimate_shown(f"{options.label}, {device}, {precision}", cheaper)
        checkpoints = Checkpoints(run.id)
        log = picture_runs.EpochLog(run, pictures, split, options.label)
        shown = progress_shown(options.label, on_estimate)
        with checkpoints.kept_to_go_on(console.print), log, shown as show:
            tuned = finetune(
                network,
                pictures,
                split,
                preprocessing,
                options,
                settings["seed"],
                device,
                precision,
                on_step=to_each(log.on_step, print_step),
                on_work=show,
                on_predictions=log.on_predictions,
                save=lambda state: checkpoints.save(state | {"settings": settings}),
                resume_from=state,
            )
        run.set_tags({"resumed_from": args.resume} if args.resume else {})
        test = predict(network, pictures, split.test, preprocessing, options, device, precision)
        if not is_first():
            return
        trained = picture_runs.Trained(
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
        said = picture_runs.finish(run, trained, test, pictures, split, name, args.promote)
        for training in filter(None, (run.id, args.resume)):
            Checkpoints(training).delete()
    console.print("\n".join(said))


if __name__ == "__main__":
    exit_with(main)
