"""`report.html` shows what the runs logged, and the commands of missing runs."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pytest
from browser import needs_chromium, run_in_page
from conftest import fresh_store
from PIL import Image

from embedlab.errors import TrackingError
from embedlab.workflows.report import (
    ENTRY_POINTS,
    ReportedRun,
    report_page,
    reported_runs,
    summaries,
)

MOVIES = ("<b>Alien</b> & co (1979)", "Heat (1995)", "Fargo (1996)")
FITS = {
    "columns": ["fit", "optimizer", "cost"],
    "data": [
        ["exact", "exact", 10.0],
        ["sgd lr=1", "sgd", None],
        ["sgd lr=0.1", "sgd", 30.0],
        ["adam lr=1", "adam", 11.0],
        ["adam lr=0.1", "adam", 20.0],
    ],
}
LISTS = {
    "exact": MOVIES[:2],
    "sgd lr=0.1": (f"+ {MOVIES[2]}", MOVIES[0]),
    "adam lr=1": MOVIES[:2],
    "adam lr=0.1": (f"+ {MOVIES[2]}", f"+ {MOVIES[2]}"),
}
RECOMMENDED = {
    "columns": ["query", "rank", *LISTS],
    "data": [
        ["Toy Story (1995)", rank, *titles]
        for rank, titles in enumerate(zip(*LISTS.values(), strict=True), start=1)
    ],
}
ACCURACY = {"extract_features": 0.75, "finetune": 0.8125}


def make_run(kind: str, **tags: str) -> str:
    """Make a finished run with the minimum of an entry point that a report needs."""
    with mlflow.start_run(run_name=f"a {kind}", tags={"entry_point": kind, **tags}) as run:
        mlflow.set_tags({"git.commit": "0123456789abcdef", "git.dirty": "false"})
        if kind in ACCURACY:
            mlflow.log_params({"weights": "/weights/resnet18.pth"})
            value = ACCURACY[kind]
            mlflow.log_metrics({"test/accuracy": value, "test/accuracy_low": value - 0.1})
            mlflow.log_metrics({"test/accuracy_high": value + 0.1, "best/val_accuracy": 0.5})
            mlflow.log_metrics({"time/fit_seconds": 90})
        if kind.startswith(("compare", "evaluate")):
            answer = f"### {kind} answers\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n"
            mlflow.log_text(answer + "### Lists\n\nThey change.\n", "summary.md")
        if kind == "fit_embedding":
            mlflow.log_metrics({"final/cost": 1234.5})
        if kind == "compare_optimizers":
            mlflow.log_text(json.dumps(FITS), "tables/fits.json")
            mlflow.log_text(json.dumps(RECOMMENDED), "tables/recommendations.json")
        if kind == "recommend":
            of_one = {"columns": ["query", "title"], "data": [["Heat (1995)", MOVIES[0]]]}
            mlflow.log_text(json.dumps(of_one), "recommendations.json")
        with TemporaryDirectory() as folder:
            for name in ("accuracy", "predictions", "confusion", "best", "trade", "movie_map"):
                Image.new("RGB", (640, 480)).save(f"{folder}/{name}.png")
            mlflow.log_artifacts(folder, "figures")
    return run.info.run_id


@pytest.fixture
def store(tmp_path):
    with fresh_store(tmp_path) as client:
        mlflow.set_experiment("report")
        yield client


@pytest.fixture
def experiment(store) -> str:
    return store.get_experiment_by_name("report").experiment_id


def shown(experiment: str, *ids: str) -> dict[str, ReportedRun]:
    return {kind: ReportedRun(run) for kind, run in reported_runs(experiment, ids).items()}


def all_runs() -> dict[str, str]:
    made = {kind: make_run(kind) for kind in ENTRY_POINTS if kind != "compare_transfer"}
    both = f"{made['finetune']},{made['extract_features']}"
    return made | {"compare_transfer": make_run("compare_transfer", compared_runs=both)}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    """The ids of one run of each kind, in a store that no test changes."""
    with fresh_store(tmp_path_factory.mktemp("made")):
        mlflow.set_experiment("report")
        yield all_runs()


@pytest.fixture
def page(made) -> str:
    return report_page(shown("1"))


def test_without_runs_the_page_names_the_command_of_everything(experiment):
    page = report_page(shown(experiment))
    commands = set(re.findall(r"mlflow run \S+ -e (\w+) --env-manager local", page))
    assert commands == {*ENTRY_POINTS} - {"recommend"}


def test_the_page_has_the_numbers_words_and_figures_of_the_runs(made, page):
    assert "mlflow run" not in page
    for run_id in made.values():
        assert f"/runs/{run_id}?" in page
    assert "<strong>75.0%</strong>" in page and "<strong>81.2%</strong>" in page
    assert "71.2% to 91.2%" in page
    assert "resnet18.pth" in page and "/weights/" not in page
    for kind in ("compare_transfer", "compare_optimizers", "evaluate_embedding"):
        assert f"<h4>{kind} answers</h4>" in page
    assert "<td>2</td>" in page  # a table of a summary
    # Accuracy once, predictions and confusion twice, then best, trade and the map.
    assert page.count("data:image/webp;base64,") == 8


def test_lists_are_of_the_best_fit_of_each_optimizer_and_what_changed_is_marked(page):
    headings = re.search(r"<th scope=\"col\">rank(.*?)</tr>", page, re.DOTALL)[1]
    assert re.findall(r">([^<>]+)", headings.replace("\n", "")) == [
        "exact",
        "sgd lr=0.1",
        "adam lr=1",
    ]
    assert re.findall(r"<mark>(.*?)</mark>", page) == [MOVIES[2]]


def test_one_fit_of_a_comparison_is_a_sentence(experiment):
    child = make_run("compare_optimizers", fit_key="x", **{"mlflow.parentRunId": "1234"})
    with pytest.raises(TrackingError, match=r"one fit of a comparison: give the .* id, 1234"):
        reported_runs(experiment, (child,))


def test_the_page_links_to_those_pages_of_its_runs_that_exist(experiment):
    made = all_runs()
    assert "explore.html" not in report_page(shown(experiment))  # embedding_map=none
    mlflow.MlflowClient().log_text(made["fit_embedding"], "a page", "explore.html")
    assert f"{made['fit_embedding']}/artifacts/explore.html?" in report_page(shown(experiment))
    assert "compare.html" not in report_page(shown(experiment))  # as in a run of an older version
    mlflow.MlflowClient().log_text(made["compare_optimizers"], "a page", "compare.html")
    assert f"{made['compare_optimizers']}/artifacts/compare.html?" in report_page(shown(experiment))


def test_lists_of_an_older_version_have_one_row_per_fit(experiment):
    made = all_runs()
    new = report_page(shown(experiment))
    rows = [
        [fit, "Toy Story (1995)", rank, title.removeprefix("+ ")]
        for fit, titles in LISTS.items()
        for rank, title in enumerate(titles, start=1)
    ]
    older = json.dumps({"columns": ["fit", "query", "rank", "title"], "data": rows})
    path = "tables/recommendations.json"
    mlflow.MlflowClient().log_text(made["compare_optimizers"], older, path)
    lists = [
        re.search(r'<table class="lists">.*?</table>', page, re.DOTALL)[0]
        for page in (new, report_page(shown(experiment)))
    ]
    assert lists[0] == lists[1]


def test_titles_are_text_and_no_part_of_the_page(page):
    assert "<b>Alien" not in page
    assert "&lt;b&gt;Alien&lt;/b&gt; &amp; co (1979)" in page


def test_the_page_needs_nothing_from_outside(page):
    assert not re.search(r"""src="(?!data:)|<link|@import|url\(""", page)


def test_latest_is_the_newest_finished_and_the_images_are_those_compared(experiment, store):
    made = all_runs()
    newer = make_run("finetune")
    failed = make_run("evaluate_embedding")
    store.set_terminated(failed, "FAILED")
    newest = make_run("recommend")
    reported = {kind: run.info.run_id for kind, run in reported_runs(experiment, ()).items()}
    assert reported == made | {"recommend": newest}
    assert newer not in reported.values()


def test_a_fit_of_a_stopped_comparison_is_not_a_comparison(experiment):
    whole = make_run("compare_optimizers")
    make_run("compare_optimizers", fit_key="a fit of a later one")
    assert reported_runs(experiment, ())["compare_optimizers"].info.run_id == whole


def test_of_several_compared_runs_of_a_kind_the_best_by_validation_is_shown(experiment, store):
    best, second, frozen = make_run("finetune"), make_run("finetune"), make_run("extract_features")
    store.log_metric(best, "best/val_accuracy", 0.6)
    make_run("compare_transfer", compared_runs=f"{second},{best},{frozen}")
    reported = reported_runs(experiment, ())
    assert reported["finetune"].info.run_id == best
    assert reported["extract_features"].info.run_id == frozen


def test_a_compared_run_that_is_gone_does_not_block_the_report(experiment):
    tuned, frozen = make_run("finetune"), make_run("extract_features")
    make_run("compare_transfer", compared_runs=f"{'a' * 32},{frozen}")
    reported = reported_runs(experiment, ())
    assert reported["finetune"].info.run_id == tuned
    assert reported["extract_features"].info.run_id == frozen


@pytest.mark.parametrize("path", ["figures/accuracy.png", "summary.md"])
def test_an_artifact_that_is_damaged_or_gone_is_named_with_its_run(experiment, tmp_path, path):
    runs = all_runs()
    run_id = runs["compare_transfer"]
    (file,) = tmp_path.rglob(f"{run_id}/artifacts/{path}")
    if path.endswith(".png"):
        file.write_bytes(file.read_bytes()[:300])
    else:
        file.unlink()
    said = rf"runs: {path} of {run_id} cannot be read .*: run compare_transfer again, or name other"
    with pytest.raises(TrackingError, match=said):
        report_page(shown(experiment, *runs.values()))


def test_two_runs_of_a_kind_are_one_sentence(experiment):
    first, second = make_run("finetune"), make_run("finetune")
    with pytest.raises(TrackingError, match=f"one run of finetune, got {first} and {second}: leav"):
        reported_runs(experiment, (first, second))


def test_named_runs_alone_are_reported(made):
    assert [*reported_runs("1", (made["finetune"],))] == ["finetune"]


def test_a_run_that_is_none_of_these_is_one_sentence(experiment, store):
    other = make_run("promote")
    with pytest.raises(TrackingError, match=f"{other} is a FINISHED run of promote; expected"):
        reported_runs(experiment, (other,))
    with pytest.raises(TrackingError, match="there is no run 'abc'"):
        reported_runs(experiment, ("abc",))


def test_the_description_has_the_first_lines_of_the_comparisons(made):
    text = summaries(shown("1"))
    assert "`report.html`" in text
    assert "**compare_optimizers answers**" in text


@needs_chromium
@pytest.mark.slow
def test_a_browser_shows_every_image_and_follows_the_contents(page, tmp_path):
    folder = tmp_path / "browser"
    folder.mkdir()
    script = """
      const images = [...document.images];
      images.forEach((image) => { image.loading = "eager"; });
      await Promise.all(images.map((image) => image.decode()));
      const links = [...document.querySelectorAll("a[href^='#']")];
      return {
        images: images.length,
        without_alt: images.filter((image) => !image.alt).length,
        lost: links.filter((link) => !document.querySelector(link.hash)).length,
        sideways: document.documentElement.scrollWidth > innerWidth,
      };
    """
    seen = run_in_page(page, script, Path(folder))
    assert seen == {"images": 8, "without_alt": 0, "lost": 0, "sideways": False}
