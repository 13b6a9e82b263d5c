"""The chart view that compares image runs, and the runs that a comparison takes."""

from tempfile import TemporaryDirectory

import numpy as np
import pytest
from chart_views import kept_view

from embedlab.datasets.image_source import SAMPLE
from embedlab.tracking.lifecycle import start_run
from embedlab.tracking.store import ui_instructions
from embedlab.tracking.tracked_run import TrackedRun
from embedlab.vision.options import SPLIT_PARAMETERS
from embedlab.workflows.finished_image_runs import find_image_runs
from embedlab.workflows.image_report import VIEW, comparison_view
from embedlab.workflows.image_runs import load_images

pytestmark = pytest.mark.slow


def image_run(entry_point: str, accuracy: float, loss: float | None = None) -> TrackedRun:
    settings = dict.fromkeys(SPLIT_PARAMETERS, 0) | {"dataset": SAMPLE}
    with start_run(entry_point, entry_point, settings) as run:
        load_images(run, settings, lambda *_: None)
        run.log_metrics({"best/val_accuracy": accuracy})
        if loss is not None:
            run.log_metrics({"best/val_loss": loss})
    return run


def test_the_comparison_finds_the_image_runs_and_no_other_the_best_first(store):
    good, best = image_run("finetune", 0.8), image_run("extract_features", 0.9)
    with start_run("fit_embedding", "movies", {}) as other:
        other.log_metrics({"best/val_accuracy": 0.99})
    page = comparison_view(good.experiment_id)
    assert page.startswith(f"#/experiments/{good.experiment_id}/runs?viewStateShareKey={VIEW}&")
    _, state = kept_view(store, good.experiment_id, VIEW)
    order = f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"
    found = store.search_runs([good.experiment_id], state["searchFilter"], order_by=[order])
    assert [run.info.run_id for run in found] == [best.id, good.id]
    opened = ui_instructions(good.experiment_id, good.id, page).splitlines()
    assert opened[-1] == f"Open   http://127.0.0.1:5000/{page}"


def test_of_runs_with_equal_accuracy_the_one_with_the_lower_loss_is_compared(store):
    kinds = {"extract_features": (0.8, 0.3, None), "finetune": (0.5, 0.4, 0.6)}
    runs = {
        (kind, loss): image_run(kind, 0.9, loss)
        for kind, losses in kinds.items()
        for loss in losses
    }
    for run in runs.values():
        with TemporaryDirectory() as folder:
            ones = np.ones((1, 10)) / 10
            np.savez(f"{folder}/test.npz", probabilities=ones, labels=[0], rows=[0])
            store.log_artifact(run.id, f"{folder}/test.npz", "predictions")
    found = find_image_runs(run.experiment_id, ())
    wanted = [runs["extract_features", 0.3], runs["finetune", 0.4]]
    assert [item.id for item in found] == [run.id for run in wanted]


def test_the_comparison_has_curves_bars_coordinates_and_images(store, experiment):
    comparison_view(experiment)
    _, state = kept_view(store, experiment, VIEW)
    charts = state["compareRunCharts"]
    assert [chart["type"] for chart in charts] == ["LINE", "LINE", "BAR", "PARALLEL", "IMAGE"]
    assert charts[0]["selectedMetricKeys"] == ["val/accuracy"]
    assert charts[1]["selectedMetricKeys"] == ["train/loss", "val/loss"]
    assert charts[2]["metricKey"] == "test/accuracy"
    assert charts[4]["imageKeys"] == ["val_predictions"]
    assert "params.`resolved/optimizer`" in state["selectedColumns"]
    assert "metrics.`test/accuracy`" in state["selectedColumns"]
