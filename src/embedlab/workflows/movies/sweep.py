"""The child runs of `compare_optimizers`: every fit is a run of its own, which can be reused."""

import math
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product

import mlflow
import numpy as np

from embedlab.errors import DataError, DivergedError, RayError, TaskFailedError
from embedlab.formatting import cost_as_text, gap_as_text
from embedlab.movies.data.likes import Likes
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.result import add_gap_metric, relative_gap
from embedlab.movies.sweep.convergence import (
    ListsByEpoch,
    Queries,
    fit_with_snapshots,
    save_lists,
)
from embedlab.movies.sweep.grid import FIT_KEY, Job
from embedlab.movies.sweep.overlap import sampled_overlap
from embedlab.movies.sweep.ray_backend import RayOptions, RunFit, fits_by_ray, ray_session
from embedlab.movies.sweep.results import SweepFit
from embedlab.progress import EpochRecord, OnProgress
from embedlab.tracking.lifecycle import start_child_run
from embedlab.tracking.tracked_run import TrackedRun
from embedlab.workflows.movies.finished_fits import LISTS_FOLDER, find_finished_fit, fit_key
from embedlab.workflows.movies.model import save_embedding
from embedlab.workflows.movies.sweep_report import LOG_GAP, LOG_LR
from embedlab_serving.movie_model import ARTIFACT

NODE = "ray_node"  # a task's host and the first characters of its node's id
# Expected time, in first-order epochs: of the exact solver's fit, and of an epoch of the others.
EXACT_WORK, EXPECTED_ROUNDS = 150.0, 30
RELATIVE_WORK = {"lbfgs": 4.0}
NEGLIGIBLE_COST = 1e-6  # of ‖X‖²: no other cost is a meaningful multiple of one below


@dataclass(frozen=True)
class Sweep:
    """The comparison that all children belong to.

    queries      the movies that every fit is queried with, at some epochs.
    reuse        take over finished children with equal parameters, data and code.
    on_progress  receives the work done, in first-order epochs.
    notify       receives a line per child.
    """

    run: TrackedRun
    likes: Likes
    queries: Queries
    device: str
    reuse: bool
    on_progress: OnProgress
    notify: Callable[[str], object]

    @property
    def tag(self) -> str:
        """Tag of this comparison's children; its value is `made` or `reused`."""
        return f"sweep_{self.run.id[:8]}"

    def fit_all(
        self, grid: Sequence[FitOptions], seeds: Sequence[int], ray: RayOptions | None = None
    ) -> list[SweepFit]:
        """Every fit of the grid, first the exact one (once); fits that diverged are included.

        ray  None to fit one after another in this process. Also with Ray, only this process uses
             the store: it writes a child run when the task of that child has ended.

        Raises TrackingError if the store fails, RayError if Ray or a task fails; finished fits are
        kept. Raises DataError if the exact cost is 0 or negligible.
        """
        exact, *others = grid
        exact_job = Job(exact, seeds[0])
        jobs = [exact_job, *(Job(*pair) for pair in product(others, dict.fromkeys(seeds)))]
        fits = self._finished_fits(jobs) if self.reuse else {}
        for fit in fits.values():
            mlflow.MlflowClient().set_tag(fit.run_id, self.tag, "reused")
            self._notify_of(fit, fits.get(exact_job), note=", found finished")
        self._check_exact_cost(fits.get(exact_job))
        missing = [job for job in jobs if job not in fits]
        failed: dict[str, list[str]] = defaultdict(list)  # names of fits, by reason
        total, done = sum(map(_work, jobs)), sum(map(_work, fits))
        with closing(self._ready_fits(missing, ray)) as ready_fits:
            for job, run_fit, node in ready_fits:
                progress = partial(self._show_progress, job, done, total)
                try:
                    fit = self._run_child(job, run_fit, node, fits.get(exact_job), progress)
                except TaskFailedError as error:
                    if job == exact_job:
                        raise
                    failed[str(error)].append(_name(*job))
                else:
                    fits[job] = fit
                    self._notify_of(fit, fits[exact_job])
                    self._check_exact_cost(fits[exact_job])
                progress(1.0)
                done += _work(job)
        _raise_if_failed(failed, len(jobs))
        return [fits[job] for job in jobs]

    def _notify_of(self, fit: SweepFit, exact: SweepFit | None, note: str = "") -> None:
        """Notify of a finished fit, with its gap to the exact cost if that is known."""
        result = fit.result
        text = f"diverged at epoch {result.diverged_at}"
        if not result.has_diverged:
            gap = ""
            if exact and result.cost != exact.result.cost:
                gap = f", {gap_as_text(relative_gap(result.cost, exact.result.cost))} the exact one"
            text = f"cost {cost_as_text(result.cost)}{gap}, {result.seconds:.1f} s"
        self.notify(f"{_name(fit.options, fit.seed)}: {text}{note}")

    def _check_exact_cost(self, exact: SweepFit | None) -> None:
        """Raises DataError if the exact cost is 0 or negligible: gaps would say nothing."""
        if exact is None:
            return
        cost, is_near_0 = exact.result.cost, False
        if exact.result.hit_max_rounds(exact.options):  # as it does on its way to 0
            is_near_0 = cost <= NEGLIGIBLE_COST * self.likes.weighted.off_diagonal_squares
        if cost == 0 or is_near_0:
            raise DataError(
                f"dim: expected one at which the exact solver leaves a cost to compare with, but "
                f"with dim={exact.options.dim} it fits these {self.likes.n_movies:,} movies "
                "exactly or nearly so: use a smaller dim, or ratings of more movies."
            )

    def _ready_fits(
        self, jobs: Sequence[Job], ray: RayOptions | None
    ) -> Generator[tuple[Job, RunFit, str | None], None, None]:
        """Yield every job, the first one first: every gap is relative to the cost of the exact fit.

        The second value fits the job in this process, or replays the fit of its Ray task; the third
        is the node of the task, None if there is none.
        """
        if ray and jobs:
            with ray_session(ray, self.notify):
                yield from fits_by_ray(self.likes.weighted, jobs, self.queries, ray)
            return
        for job in jobs:
            fit = partial(fit_with_snapshots, self.likes.weighted, self.queries, job, self.device)
            yield job, fit, None

    def _show_progress(self, job: Job, done: float, total: float, fraction: float) -> None:
        """Show that `fraction` of `job` is done, after `done` of `total` work."""
        self.on_progress(done + fraction * _work(job), total, job.options.label)

    def _key(self, job: Job) -> str:
        # Includes the titles, because a list leaves out other rows of the movie asked for.
        data = "\n".join([self.likes.cost_digest, *self.likes.movies["title"]])
        return fit_key(*job, data, self.device)

    def _finished_fits(self, jobs: Sequence[Job]) -> dict[Job, SweepFit]:
        """The jobs that are finished already, with their fits."""
        fits = {}
        for job in jobs:
            key = self._key(job)
            if fit := find_finished_fit(self.run.experiment_id, key, job, self.queries):
                fits[job] = fit
        return fits

    def _run_child(
        self,
        job: Job,
        run_fit: RunFit,
        node: str | None,
        exact: SweepFit | None,
        progress: Callable[[float], None],
    ) -> SweepFit:
        """Make a child of a fit that `run_fit` makes or replays; `node` is that of its Ray task."""
        options, seed = job
        params = {**self.likes.params, **asdict(options), "seed": seed, "device": self.device}
        if options.lr:
            params[LOG_LR] = f"{math.log10(options.lr):.3g}"
        tags = {"entry_point": "compare_optimizers", FIT_KEY: self._key(job), self.tag: "made"}
        if node:
            tags[NODE] = node
        history: list[EpochRecord] = []
        try:
            with start_child_run(options.label, params, tags) as child:
                child.log_inputs_of(self.run.id)

                def on_epoch(record: EpochRecord) -> None:
                    history.append(add_gap_metric(record, exact.result.cost if exact else None))
                    child.log_epoch(history[-1])
                    n_expected = EXPECTED_ROUNDS if options.is_exact else options.epochs
                    progress(min(1.0, record.epoch / n_expected))

                result, lists = run_fit(on_epoch)
                child.log_metrics({"time/fit_seconds": result.seconds})
                result.raise_if_diverged(options)
                gap = relative_gap(result.cost, exact.result.cost) if exact else 0.0
                child.log_metrics({"final/cost": result.cost, "final/gap": gap})
                if exact:
                    self._log_lists(child, lists, exact.last_lists)
                if gap > 0:
                    child.log_metrics({LOG_GAP: math.log10(gap)})
                metadata = self.likes.metadata | {"optimizer": options.label, "cost": result.cost}
                with child.artifact_folder(ARTIFACT) as folder:
                    save_embedding(folder, result.embedding, self.likes.table, metadata)
        except DivergedError:
            pass  # the child's tags say so, and the comparison continues
        return SweepFit(options, seed, result, history, lists, child.id)

    def _log_lists(
        self, child: TrackedRun, by_epoch: ListsByEpoch, exact_lists: np.ndarray
    ) -> None:
        """Log a fit's lists and, as a metric by epoch, their overlap with the exact solver's."""
        for epoch, lists in sorted(by_epoch.items()):
            overlap = sampled_overlap(self.queries, lists, exact_lists)
            child.log_metrics({"train/overlap_random": overlap.mean}, epoch)
        with child.artifact_folder(LISTS_FOLDER) as folder:
            save_lists(folder, self.queries, by_epoch)


def _raise_if_failed(failed: Mapping[str, Sequence[str]], n_jobs: int) -> None:
    """Raises RayError if fits have failed; `failed` has their names, by reason."""
    if failed:
        reasons = (f"{reason} ({'; '.join(names)})" for reason, names in failed.items())
        raise RayError(
            f"{sum(map(len, failed.values()))} of {n_jobs} fits failed: {'; '.join(reasons)}. The "
            "others are kept: start again to run only these."
        )


def _name(options: FitOptions, seed: int) -> str:
    return f"{options.label}, seed {seed}"


def _work(job: Job) -> float:
    """Expected time of a fit, in first-order epochs."""
    if job.options.is_exact:
        return EXACT_WORK
    return RELATIVE_WORK.get(job.options.optimizer, 1.0) * job.options.epochs
