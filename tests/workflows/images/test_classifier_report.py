"""The chart view that compares image runs: which runs it finds, and its charts."""

import pytest
from chart_views import kept_view
from small_image_runs import image_run

from embedlab.tracking.lifecycle import start_run
from embedlab.tracking.store import ui_instructions
from embedlab.workflows.images.classifier_report import VIEW, save_comparison_view

pytestmark = pytest.mark.slow


def test_the_comparison_finds_the_image_runs_and_no_other_the_best_first(store):
    good, best = image_run("finetune", 0.8), image_run("extract_features", 0.9)
    with start_run("fit_embedding", "movies", {}) as other:
        other.log_metrics({"best/val_accuracy": 0.99})
    page = save_comparison_view(good.experiment_id)
    assert page.startswith(f"#/experiments/{good.experiment_id}/runs?viewStateShareKey={VIEW}&")
    _, state = kept_view(store, good.experiment_id, VIEW)
    order = f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"
    listed = store.search_runs([good.experiment_id], state["searchFilter"], order_by=[order])
    assert [run.info.run_id for run in listed] == [best.id, good.id]
    opened = ui_instructions(good.experiment_id, good.id, page).splitlines()
    assert opened[-1] == f"Open   http://127.0.0.1:5000/{page}"


def test_the_comparison_has_curves_bars_coordinates_and_images(store, experiment):
    save_comparison_view(experiment)
    _, state = kept_view(store, experiment, VIEW)
    charts = state["compareRunCharts"]
    assert [chart["type"] for chart in charts] == ["LINE", "LINE", "BAR", "PARALLEL", "IMAGE"]
    assert charts[0]["selectedMetricKeys"] == ["val/accuracy"]
    assert charts[1]["selectedMetricKeys"] == ["train/loss", "val/loss"]
    assert charts[2]["metricKey"] == "test/accuracy"
    assert charts[4]["imageKeys"] == ["val_predictions"]
    assert "params.`resolved/optimizer`" in state["selectedColumns"]
    assert "metrics.`test/accuracy`" in state["selectedColumns"]
