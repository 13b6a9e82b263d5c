"""The children of `compare_optimizers`: every fit is a run of its own, made once and found again.

A child is found by its tag `fit_key`: a digest of all that its result depends on. So a comparison
that was stopped goes on when it is started again, and a larger one takes over what is there.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType

import mlflow
import numpy as np
import scipy
import torch
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from embedlab.errors import DataError, DivergedError, EmbedlabError, RayError
from embedlab.movies.data.likes import Likes
from embedlab.movies.solvers.fit import fit_weighted
from embedlab.movies.solvers.options import FitOptions, FitResult, add_gap_metric, divergence_epoch
from embedlab.movies.sweep.ray_backend import RayOptions, fits_by_ray, ray_session
from embedlab.movies.sweep.results import SweepFit, gap_as_text
from embedlab.progress import OnStep, Step, combine_callbacks
from embedlab.tracking.charts import bar_chart, line_chart, parallel_chart, save_view
from embedlab.tracking.run import PROJECT_ROOT, TrackedRun, start_child_run
from embedlab.wording import cost_as_text
from embedlab.workflows.models import save_embedding
from embedlab_serving.movie_model import ARTIFACT, VECTORS_FILE

KEY = "fit_key"
NODE = "ray_node"  # where a task ran: its host, and the begin of the node's id
LOG_LR, LOG_GAP = "log10_lr", "final/log10_gap"  # parallel coordinates know no logarithmic axis
FIT_ROOMS = ("movies/data", "movies/solvers")  # the code that a fit's result depends on
# Of an epoch's time, against one of the first-order optimizers' (and all rounds of the exact one).
RELATIVE_WORK = {"lbfgs": 4.0, "exact": 5.0}

Job = tuple[FitOptions, int]  # with its seed
Made = tuple[str, FitResult, list[Step]]  # with its run id
OnWork = Callable[[float, float, str], None]


@dataclass(frozen=True)
class Sweep:
    """What all children share: the parent run, the data, and how to say what is going on.

    reuse  take over a child that is finished, with equal parameters, data and code.
    say    gets a line a child.
    """

    run: TrackedRun
    likes: Likes
    device: str
    reuse: bool
    on_work: OnWork
    say: Callable[[str], None]

    @property
    def tag(self) -> str:
        """Of the children; its value is how each came in: made or reused."""
        return f"sweep_{self.run.id[:8]}"

    def fit_all(
        self, grid: Sequence[FitOptions], seeds: Sequence[int], by_ray: RayOptions | None = None
    ) -> list[SweepFit]:
        """Every fit of the grid, the exact one (once) first; those that diverged are kept.

        by_ray  None to fit one after another in this process.

        Raises TrackingError where the store fails, RayError where Ray or a task does; what is
        finished by then is kept. Raises DataError where the exact cost is 0, of which no other
        cost is a multiple.
        """
        jobs = [
            (options, seed)
            for options in grid
            for seed in (seeds[:1] if options.optimizer == "exact" else seeds)
        ]
        return self._by_ray(jobs, by_ray) if by_ray else self._in_turn(jobs)

    def _in_turn(self, jobs: Sequence[Job]) -> list[SweepFit]:
        total, done, exact_cost = sum(map(_work, jobs)), 0.0, None
        fits = []
        for options, seed in jobs:
            size = _work((options, seed))

            def on_epoch(step: Step, done=done, size=size, options=options) -> None:
                part = done + size * step.epoch / options.epochs
                self.on_work(part, total, options.label)

            solve = partial(fit_weighted, self.likes.weighted, options, seed, self.device)
            found = self._find(options, seed)
            item = self._fit(options, seed, found, exact_cost, solve, on_epoch)
            exact_cost = self._exact_cost(item) if exact_cost is None else exact_cost
            fits.append(item)
            done += size
            self.on_work(done, total, options.label)
        return fits

    def _by_ray(self, jobs: Sequence[Job], by_ray: RayOptions) -> list[SweepFit]:
        """This process alone talks to the store: it makes the child when its task has ended. One
        that ends before the exact fit waits for it, since its gap is to the exact cost."""
        found = {number: self._find(*job) for number, job in enumerate(jobs)}
        missing = {number: jobs[number] for number in found if found[number] is None}
        total, done, exact_cost = sum(map(_work, jobs)), 0.0, None
        fits, waiting, failed = {}, {}, defaultdict(list)
        with ray_session(by_ray, self.say) if missing else nullcontext():
            ended = fits_by_ray(self.likes.weighted, missing, self.device, by_ray)
            there = ((number, None) for number in found if number not in missing)
            for last, outcome in chain(there, ended if missing else ()):
                waiting[last] = outcome
                done += _work(jobs[last])
                self.on_work(done, total, jobs[last][0].label)
                if exact_cost is None and last != 0:
                    continue
                for number, outcome in sorted(waiting.items(), key=itemgetter(0)):
                    options, seed = jobs[number]
                    solve = outcome and outcome.replay
                    node = {NODE: outcome.node} if outcome and outcome.node else {}
                    try:
                        item = self._fit(options, seed, found[number], exact_cost, solve, tags=node)
                    except EmbedlabError as error:
                        is_of_task = outcome is not None and error is outcome.error
                        if number == 0 or not is_of_task:
                            raise
                        failed[str(error)].append(f"{options.label}, seed {seed}")
                        continue
                    exact_cost = self._exact_cost(item) if exact_cost is None else exact_cost
                    fits[number] = item
                waiting.clear()
        if failed:
            reasons = (f"{reason} ({'; '.join(names)})" for reason, names in failed.items())
            raise RayError(
                f"{len(jobs) - len(fits)} of {len(jobs)} fits failed: {'; '.join(reasons)}. The "
                "others are kept: start again to run only these."
            )
        return [fits[number] for number in found]

    def _exact_cost(self, exact: SweepFit) -> float:
        if exact.fit.cost == 0:
            raise DataError(
                f"dim: expected one at which the exact solver leaves a cost to compare with, "
                f"but with dim={exact.options.dim} it fits these {self.likes.n_movies:,} movies "
                "exactly: use a smaller dim, or ratings of more movies."
            )
        return exact.fit.cost

    def _find(self, options: FitOptions, seed: int) -> Made | None:
        key = fit_key(options, seed, self.likes.cost_digest, self.device)
        return find_fit(self.run.experiment_id, key) if self.reuse else None

    def _fit(
        self,
        options: FitOptions,
        seed: int,
        found: Made | None,
        exact_cost: float | None,
        solve: Callable[[OnStep], FitResult],
        on_epoch: OnStep | None = None,
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> SweepFit:
        """The child that was found, or else a new one, of what `solve` does."""
        if found is None:
            run_id, fit, steps = self._make(options, seed, exact_cost, solve, on_epoch, tags)
        else:
            run_id, fit, steps = found
            mlflow.MlflowClient().set_tag(run_id, self.tag, "reused")
        gap = _gap(fit, exact_cost)
        how = "" if found is None else ", found finished"
        self.say(f"{options.label}, seed {seed}: {_result_in_words(fit, gap)}{how}")
        return SweepFit(options, seed, fit, steps, gap, run_id)

    def _make(
        self,
        options: FitOptions,
        seed: int,
        exact_cost: float | None,
        solve: Callable[[OnStep], FitResult],
        on_epoch: OnStep | None,
        tags: Mapping[str, str],
    ) -> Made:
        key = fit_key(options, seed, self.likes.cost_digest, self.device)
        steps: list[Step] = []
        params = {**self.likes.params, **asdict(options), "seed": seed, "device": self.device}
        params |= {LOG_LR: f"{math.log10(options.lr):.3g}"} if options.lr else {}
        tags = {"entry_point": "compare_optimizers", KEY: key, self.tag: "made", **tags}
        try:
            with start_child_run(options.label, params, tags) as child:
                listeners = filter(None, (steps.append, child.record, on_epoch))
                fit = solve(add_gap_metric(combine_callbacks(*listeners), exact_cost))
                child.log_metrics({"time/fit_seconds": fit.seconds}, fit.epochs)
                fit.raise_if_diverged(options)
                gap = _gap(fit, exact_cost)
                child.log_metrics({"final/cost": fit.cost, "final/gap": gap}, fit.epochs)
                if gap > 0:
                    child.log_metrics({LOG_GAP: math.log10(gap)}, fit.epochs)
                about = self.likes.about() | {"optimizer": options.label, "cost": fit.cost}
                movies = self.likes.movies.assign(likes=self.likes.popularity)
                with child.artifact_folder(ARTIFACT) as folder:
                    save_embedding(folder, fit.embedding, movies, about)
        except DivergedError:
            pass  # its run says so, and the comparison goes on
        return child.id, fit, steps

    def log_overlaps(self, fits: Sequence[SweepFit], overlap: np.ndarray) -> None:
        """Give each child its overlap with the exact solver's lists, (n_fits,), as a metric."""
        client = mlflow.MlflowClient()
        for item, value in zip(fits, overlap, strict=True):
            if np.isfinite(value):
                client.log_metric(item.run_id, "final/overlap", value, step=item.fit.epochs)

    def save_view(self, name: str, n_fits: int) -> str | None:
        """The page of charts that compares the children; None where it could not be saved."""
        return save_view(
            self.run.experiment_id,
            self.tag,
            name,
            charts=[
                line_chart("Cost by epoch", ["train/cost"], log_scale=True, n_runs=n_fits),
                line_chart("Above the exact cost", ["train/gap"], log_scale=True, n_runs=n_fits),
                parallel_chart(
                    "Optimizer, rate, gap, overlap",
                    ["optimizer", LOG_LR],
                    [LOG_GAP, "final/overlap"],
                ),
                bar_chart("Overlap with the exact solver's top list", "final/overlap", n_fits),
            ],
            columns=[
                "params.optimizer",
                "params.lr",
                "params.seed",
                "metrics.final/cost",
                "metrics.final/gap",
                "metrics.final/overlap",
                "metrics.time/fit_seconds",
                "tags.stop_reason",
            ],
            order_by="final/cost ASC",
            search=f"tags.{self.tag} IS NOT NULL",
        )


def _work(job: Job) -> float:
    """How long it takes, in first-order epochs."""
    options, _ = job
    return RELATIVE_WORK.get(options.optimizer, 1.0) * options.epochs


def fit_key(options: FitOptions, seed: int, data_digest: str, device: str) -> str:
    """A digest of all that a fit's result depends on: parameters, data, device, code."""
    parts = {
        "options": asdict(options),
        "seed": seed,
        "data": data_digest,
        "device": device,
        "versions": [torch.__version__, scipy.__version__, np.__version__],
        "code": _code_digest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _code_digest() -> str:
    sha = hashlib.sha256()
    for room in FIT_ROOMS:
        for path in sorted((PROJECT_ROOT / "src" / "embedlab" / room).glob("*.py")):
            sha.update(path.read_bytes())
    return sha.hexdigest()


def find_fit(experiment_id: str, key: str) -> Made | None:
    """Run id, fit and steps of the newest finished child with that key; None if there is none
    whose artifacts can be read."""
    client = mlflow.MlflowClient()
    for run in client.search_runs([experiment_id], f"tags.{KEY} = '{key}'"):
        reason = run.data.tags.get("stop_reason")
        if reason in ("finished", DivergedError.stop_reason):
            try:
                steps = _steps(client, run)
                return run.info.run_id, _fit_of(run, steps, reason == "finished"), steps
            except (MlflowException, OSError, ValueError, LookupError):
                continue  # half deleted or damaged: it is fitted anew
    return None


def _steps(client: mlflow.MlflowClient, run: Run) -> list[Step]:
    run_id = run.info.run_id
    seconds = {m.step: m.value for m in client.get_metric_history(run_id, "time/epoch_seconds")}
    costs = {m.step: m.value for m in client.get_metric_history(run_id, "train/cost")}
    return [
        Step(epoch, {"train/cost": cost}, seconds.get(epoch))
        for epoch, cost in sorted(costs.items())
    ]


def _fit_of(run: Run, steps: list[Step], is_finished: bool) -> FitResult:
    epochs, seconds = steps[-1].epoch, run.data.metrics["time/fit_seconds"]
    cost = steps[-1].metrics["train/cost"]
    if not is_finished:
        nothing = np.empty((0, int(run.data.params["dim"])), np.float32)
        # A cost that is not finite is not recorded: it came after the last epoch that is there.
        epochs = min(epochs + 1, int(run.data.params["epochs"]))
        diverged_at = divergence_epoch([step.metrics["train/cost"] for step in steps]) or epochs
        return FitResult(
            nothing, cost, epochs, seconds, diverged_at, run.data.tags.get("error", "")
        )
    path = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path=f"{ARTIFACT}/{VECTORS_FILE}"
    )
    return FitResult(np.load(Path(path), allow_pickle=False), cost, epochs, seconds)


def _gap(fit: FitResult, exact_cost: float | None) -> float:
    """Of the cost over the exact one; the exact fit, which has none to compare with, is 0 above."""
    if fit.has_diverged:
        return float("nan")
    if exact_cost is None or fit.cost == exact_cost:
        return 0.0
    return fit.cost / exact_cost - 1


def _result_in_words(fit: FitResult, gap: float) -> str:
    if fit.has_diverged:
        return f"diverged at epoch {fit.diverged_at}"
    above = f", {gap_as_text(gap)} the exact one" if gap else ""
    return f"cost {cost_as_text(fit.cost)}{above}, {fit.seconds:.1f} s"
