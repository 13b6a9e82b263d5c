"""Saved chart views: a tag of the experiment, or only a warning if it cannot be saved."""

import logging

import mlflow
import pytest
from chart_views import kept_view
from mlflow.exceptions import MlflowException

from embedlab.tracking import charts as views
from embedlab.tracking.charts import save_view

pytestmark = pytest.mark.slow


def save(experiment: str, name: str = "Mine", charts: int = 1) -> str | None:
    return save_view(
        experiment,
        "mine",
        name,
        [views.bar_chart(f"Bars {number}", "test/accuracy") for number in range(charts)],
        ["params.lr", "metrics.test/accuracy"],
        order_by="test/accuracy",
        filter_string="tags.a = 'b'",
    )


def test_a_view_is_a_tag_with_its_charts_and_columns(store, experiment):
    page = save_view(
        experiment,
        "mine",
        "Mine, été",
        [
            views.line_chart("Loss", ["train/loss", "val/loss"], log_scale=True),
            views.line_chart("Accuracy", ["val/accuracy"]),
            views.bar_chart("Test", "test/accuracy"),
            views.parallel_chart("All", ["lr", "epochs"], ["test/accuracy"]),
            views.image_chart("Grid", "grid"),
        ],
        ["params.resolved/lr", "metrics.test/accuracy"],
        order_by="test/accuracy",
        filter_string="tags.a = 'b'",
    )
    query = "viewStateShareKey=mine&compareRunsMode=CHART&workflowType=machine_learning"
    assert page == f"#/experiments/{experiment}/runs?{query}"
    view, state = kept_view(store, experiment, "mine")
    assert view["name"] == "Mine, été"
    assert view["createdAt"] == view["updatedAt"] > 1.7e12  # milliseconds
    assert state["searchFilter"] == "tags.a = 'b'"
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`test/accuracy`", False)
    assert state["selectedColumns"] == ["params.`resolved/lr`", "metrics.`test/accuracy`"]
    charts = state["compareRunCharts"]
    assert [(chart["type"], chart["displayName"]) for chart in charts] == [
        ("LINE", "Loss"),
        ("LINE", "Accuracy"),
        ("BAR", "Test"),
        ("PARALLEL", "All"),
        ("IMAGE", "Grid"),
    ]
    loss, accuracy, bars, parallel, grid = charts
    assert (loss["selectedMetricKeys"], loss["scaleType"]) == (["train/loss", "val/loss"], "log")
    assert (accuracy["metricKey"], accuracy["scaleType"]) == ("val/accuracy", "linear")
    assert bars["metricKey"] == "test/accuracy"
    assert parallel["selectedParams"] == ["lr", "epochs"]
    assert parallel["selectedMetrics"] == ["test/accuracy"]
    assert grid["imageKeys"] == ["grid"]
    assert len({chart["uuid"] for chart in charts}) == len(charts)
    sections = [section["uuid"] for section in state["compareRunSections"]]
    assert {chart["metricSectionId"] for chart in charts} == set(sections)


def test_a_view_of_the_same_name_is_replaced(store, experiment):
    assert save(experiment, "Before") == save(experiment, "After")
    assert kept_view(store, experiment, "mine")[0]["name"] == "After"


def assert_only_a_warning(caplog, page: str | None) -> None:
    assert page is None
    (record,) = [record for record in caplog.records if record.name == views.__name__]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("the chart view was not saved: ")


def test_a_store_that_does_not_know_the_experiment_warns_only(store, caplog):
    assert_only_a_warning(caplog, save("123456"))


def test_a_view_that_is_too_long_for_the_store_warns_only(store, experiment, caplog):
    assert_only_a_warning(caplog, save(experiment, charts=200))
    tags = store.get_experiment(experiment).tags
    assert not [name for name in tags if name.startswith("mlflow.sharedViewState")]


def test_a_server_that_is_gone_warns_only(experiment, caplog, monkeypatch):
    def gone(*_: object) -> None:
        raise MlflowException("API request failed: Max retries exceeded")

    monkeypatch.setattr(mlflow.MlflowClient, "set_experiment_tag", gone)
    assert_only_a_warning(caplog, save(experiment))
