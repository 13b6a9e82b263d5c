"""The child runs of a comparison: their reuse, and what the parent logs."""

import itertools
import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import fresh_store

from embedlab.datasets.movielens import locate_ratings
from entrypoints.compare_optimizers import main

GRID = ["--ratings", "sample", "--dim", "5", "--epochs", "4", "--optimizers", "adam,sgd"]
RATES = ["--learning-rates", "adam:1,0.1/sgd:1e-5,9"]
TITLES = ["--titles", "Toy Story|Apollo 13"]


def children(client) -> dict[str, mlflow.entities.Run]:
    """Every child by its run id, oldest first."""
    runs = client.search_runs(["1"], "tags.fit_key IS NOT NULL", order_by=["start_time ASC"])
    return {run.info.run_id: run for run in runs}


def parents(client) -> list[mlflow.entities.Run]:
    """The comparisons, newest first."""
    runs = client.search_runs(["1"], "tags.entry_point = 'compare_optimizers'")
    return [run for run in runs if "fit_key" not in run.data.tags]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A store with a finished comparison, and the lines that it and later ones print."""
    printed = []
    with (
        pytest.MonkeyPatch.context() as patch,
        fresh_store(tmp_path_factory.mktemp("sweep")) as client,
    ):
        patch.setattr(
            "embedlab.cli.console.console.print", lambda *text: printed.extend(map(str, text))
        )
        main([*GRID, *RATES, *TITLES])
        yield client, printed


@pytest.fixture(autouse=True)
def no_figures(compared, monkeypatch):
    """Let only the first comparison draw figures, which `test_sweep_plots` tests."""
    monkeypatch.setattr("embedlab.workflows.movies.sweep_report.comparison_figures", lambda *_: {})


@pytest.mark.slow
def test_every_fit_is_a_child_with_the_same_parameters_and_its_own_metrics(compared):
    client, _ = compared
    made = list(children(client).values())
    parent = parents(client)[-1]
    tag = f"sweep_{parent.info.run_id[:8]}"
    assert [run.info.run_name for run in made[:5]] == [
        "exact",
        "adam lr=1",
        "adam lr=0.1",
        "sgd lr=9",
        "sgd lr=1e-05",
    ]
    for run in made[:5]:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags[tag] == "made"
        assert run.data.params["dim"] == "5"
        assert run.data.params["ratings"] == "sample"
    exact, adam, _, diverged, sgd = (run.data for run in made[:5])
    assert exact.metrics["final/gap"] == 0
    assert exact.metrics["final/overlap"] == 1
    assert "lr" not in exact.params
    gap = adam.metrics["final/cost"] / exact.metrics["final/cost"] - 1
    assert adam.metrics["final/gap"] == pytest.approx(gap)
    assert adam.metrics["final/log10_gap"] == pytest.approx(np.log10(gap))
    assert (sgd.params["lr"], sgd.params["log10_lr"]) == ("1e-05", "-5")
    assert 0 <= sgd.metrics["final/overlap"] <= 1
    assert diverged.tags["stop_reason"] == "diverged"
    assert made[3].info.status == "FAILED"
    assert "final/cost" not in diverged.metrics
    history = client.get_metric_history(made[1].info.run_id, "train/gap")
    assert [point.step for point in history] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_fit_whose_first_cost_is_not_finite_is_not_run_again(tmp_path):
    with fresh_store(tmp_path) as client:
        for _ in range(2):
            main([*GRID, "--learning-rates", "adam:1/sgd:1", "--init-scale", "1e100"])
        assert len(children(client)) == 3
        fits = parents(client)[0]
        table = mlflow.load_table("tables/fits.json", run_ids=[fits.info.run_id])
        assert table["status"].tolist() == ["fitted", *["diverged at epoch 0"] * 2]
        assert set(table["run_id"]) == set(children(client))


@pytest.mark.slow
def test_the_parent_holds_figures_tables_and_the_answer(compared, tmp_path):
    client, printed = compared
    parent = parents(client)[-1]
    assert parent.info.status == "FINISHED"
    run_id = parent.info.run_id
    files = {
        file.path
        for folder in ("", "figures", "tables")
        for file in client.list_artifacts(run_id, folder)
    }
    assert files >= {
        "summary.md",
        "figures/costs.png",
        *(f"figures/{name}.png" for name in ("best", "gap", "overlap", "overlap_by_gap")),
        *(f"tables/{name}.json" for name in ("fits", "overlap", "recommendations")),
    }
    table = mlflow.load_table("tables/fits.json", run_ids=[run_id])
    assert table["run_id"].tolist() == list(children(client))[:5]
    recommended = mlflow.load_table("tables/recommendations.json", run_ids=[run_id])
    assert set(recommended["query"]) == {"Toy Story (1995)", "Apollo 13 (1995)"}
    fits = ["exact", "adam lr=1", "adam lr=0.1", "sgd lr=1e-05"]  # those that did not diverge
    assert list(recommended) == ["query", "rank", *fits]
    assert len(recommended) == 2 * 10  # titles, ranks
    assert parent.data.tags["mlflow.note.content"] in printed
    metrics, best = parent.data.metrics, table[table["optimizer"] != "exact"]["cost"].min()
    assert metrics["best/cost"] == pytest.approx(best)  # as JSON has it
    assert metrics["best/gap"] == pytest.approx(best / metrics["reference/cost"] - 1)
    assert 0 <= metrics["best/overlap_random"] <= 1
    inputs = [run.inputs.dataset_inputs for run in (parent, list(children(client).values())[1])]
    assert len({item.dataset.digest for of_run in inputs for item in of_run}) == 1
    assert all(inputs)


@pytest.mark.slow
def test_the_printed_view_is_a_saved_one_that_finds_every_child(compared):
    client, printed = compared
    parent = parents(client)[-1]
    tag = f"sweep_{parent.info.run_id[:8]}"
    assert f"viewStateShareKey={tag}&compareRunsMode=CHART" in "".join(printed)
    view = client.get_experiment("1").tags[f"mlflow.sharedViewState.{tag}"]
    state = json.loads(json.loads(view)["state"])
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`final/cost`", True)
    listed = client.search_runs(["1"], state["searchFilter"])
    assert {run.info.run_id for run in listed} == set(list(children(client))[:5])


@pytest.mark.slow
def test_a_larger_grid_takes_over_what_is_there(compared):
    client, printed = compared
    before = children(client)
    n_printed = len(printed)
    main(
        [
            *GRID,
            "--learning-rates",
            "adam:1,0.1,0.01/sgd:1e-5,9",
            "--titles",
            "Pretty Woman",
            "--k",
            "3",
        ]
    )
    after = children(client)
    fresh = [run for run_id, run in after.items() if run_id not in before]
    assert [run.info.run_name for run in fresh] == ["adam lr=0.01"]
    newest = parents(client)[0].info.run_id
    table = mlflow.load_table("tables/fits.json", run_ids=[newest])
    assert len(table) == 6
    assert set(table["run_id"]) == set(list(before)[:5]) | {fresh[0].info.run_id}
    for run_id in list(before)[:5]:
        assert after[run_id].data.tags[f"sweep_{newest[:8]}"] == "reused"
    assert table["status"].tolist().count("diverged at epoch 1") == 1
    old = mlflow.load_table("tables/fits.json", run_ids=[parents(client)[-1].info.run_id])
    both = pd.merge(table, old, on="run_id")
    assert len(both) == 5
    for column in ("cost", "gap", "epochs", "status"):
        assert both[f"{column}_x"].equals(both[f"{column}_y"]), column
    assert "".join(printed[n_printed:]).count("found finished") == 5


@pytest.mark.slow
def test_without_reuse_every_fit_is_made_anew(compared):
    client, _ = compared
    n_before = len(children(client))
    main([*GRID, *RATES, *TITLES, "--reuse", "false"])
    assert len(children(client)) == n_before + 5


@pytest.mark.slow
def test_a_child_whose_vectors_are_gone_is_fitted_anew(tmp_path):
    grid = [*GRID[:-1], "adam", "--learning-rates", "adam:1", "--titles", "Toy Story"]
    with fresh_store(tmp_path) as client:
        main(grid)
        (lost,) = (run for run in children(client).values() if run.info.run_name == "adam lr=1")
        (vectors,) = tmp_path.rglob(f"{lost.info.run_id}/artifacts/embedding/vectors.npy")
        vectors.write_bytes(vectors.read_bytes()[:100])
        main(grid)
        names = [run.info.run_name for run in children(client).values()]
    assert names == ["exact", "adam lr=1", "adam lr=1"]


@pytest.mark.slow
def test_a_comparison_that_is_stopped_goes_on(tmp_path, monkeypatch):
    with fresh_store(tmp_path) as client:
        from embedlab.workflows.movies import sweep as tracked

        solve, calls = tracked.fit_with_snapshots, itertools.count(1)

        def stopped_in_the_third(*args):
            if next(calls) == 3:
                raise KeyboardInterrupt
            return solve(*args)

        monkeypatch.setattr(tracked, "fit_with_snapshots", stopped_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            main([*GRID, *RATES, *TITLES])
        stopped = [(r.info.run_name, r.data.tags["stop_reason"]) for r in children(client).values()]
        assert stopped == [
            ("exact", "finished"),
            ("adam lr=1", "finished"),
            ("adam lr=0.1", "ctrl-c"),
        ]
        assert parents(client)[0].data.tags["stop_reason"] == "ctrl-c"
        main([*GRID, *RATES, *TITLES])
        names = [run.info.run_name for run in children(client).values()]
        assert names[3:] == ["adam lr=0.1", "sgd lr=9", "sgd lr=1e-05"]
        assert next(calls) == 3 + 3 + 1
        assert parents(client)[0].info.status == "FINISHED"


@pytest.mark.slow
def test_an_unknown_title_is_refused_before_any_fit(tmp_path):
    from embedlab.errors import TitleError

    with fresh_store(tmp_path) as client:
        with pytest.raises(TitleError, match="Terminater 7"):
            main([*GRID, *RATES, "--titles", "Toy Story|Terminater 7"])
        assert children(client) == {}


@pytest.mark.slow
@pytest.mark.parametrize("dim", ["70", "82"])
def test_a_dim_that_fits_nearly_every_count_is_refused(tmp_path, dim):
    from embedlab.errors import DataError

    with fresh_store(tmp_path) as client:
        with pytest.raises(DataError, match=f"with dim={dim} it fits these 82 movies exactly or"):
            main([*GRID, "--dim", dim, *RATES, *TITLES])
        assert [run.info.run_name for run in children(client).values()] == ["exact"]


@pytest.mark.slow
def test_a_fit_is_made_again_if_only_a_title_has_changed(tmp_path):
    """The lists of the first fit could recommend a movie for another row of itself."""
    folder = Path(shutil.copytree(locate_ratings("sample").path, tmp_path / "ratings"))
    command = ["--ratings", str(folder), *GRID[2:], *TITLES, "--learning-rates", "adam:1/sgd:1e-5"]
    movies = folder / "movies.csv"
    with fresh_store(tmp_path) as client:
        main(command)
        assert len(children(client)) == 3
        text = movies.read_text(encoding="utf-8")
        movies.write_text(text.replace("Toy Story 2 (1999)", "Toy Story (1995)"), encoding="utf-8")
        main(command)
        assert len(children(client)) == 6


@pytest.mark.slow
def test_several_seeds_and_one_exact_fit(tmp_path):
    with fresh_store(tmp_path) as client:
        main([*GRID, *TITLES, "--learning-rates", "adam:1/sgd:1e-5", "--seeds", "0,1"])
        fits = [(r.info.run_name, r.data.params["seed"]) for r in children(client).values()]
        table = mlflow.load_table("tables/fits.json", run_ids=[parents(client)[0].info.run_id])
    assert [seed for name, seed in fits if name == "adam lr=1"] == ["0", "1"]
    assert [seed for name, seed in fits if name == "exact"] == ["0"]
    assert table["fit"].tolist()[:3] == ["exact", "adam lr=1 seed=0", "adam lr=1 seed=1"]
    assert table["cost"].nunique() == 5


@pytest.mark.real
def test_on_real_ratings_converged_fits_agree_and_others_do_not(real_movielens, tmp_path):
    rates = "adam:1,0.0001/lbfgs:1"
    with fresh_store(tmp_path) as client:
        grid = ["--optimizers", "adam,lbfgs", "--learning-rates", rates, "--dim", "20"]
        main(["--ratings", str(real_movielens), *grid])
        parent = parents(client)[0].info.run_id
        table = mlflow.load_table("tables/overlap.json", run_ids=[parent])
    overlap = table.set_index(["first", "second"])["overlap"]
    # Converged fits share at least 9 of 10 movies; one that stayed at its start shares none.
    assert overlap["exact", "lbfgs lr=1"] >= 0.9
    assert overlap["exact", "adam lr=1"] >= 0.9
    assert overlap["exact", "adam lr=0.0001"] <= 0.1
