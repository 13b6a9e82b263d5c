"""Small or one-sided but valid ratings, through the entry points: the fit has the cost that a loop
over all pairs gives, or one sentence says why the command is refused.
"""

import re
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from degenerate_ratings import TOY_RATINGS, write
from mlflow.exceptions import MlflowException
from oracles import cooccurrence_by_loop, cost_by_loop

from embedlab.errors import DataError, DivergedError, OptionError, TitleError
from embedlab.movies.data.likes import load_likes
from entrypoints import (
    build_matrix,
    compare_optimizers,
    evaluate_embedding,
    fit_embedding,
    recommend,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("store")]


def run(entry_point, *arguments: str) -> tuple[str, dict[str, float]]:
    """Run an entry point in this process. Returns run id and metrics, which are all finite."""
    entry_point.main([*arguments])
    finished = mlflow.last_active_run()
    assert finished.info.status == "FINISHED"
    assert not [name for name, value in finished.data.metrics.items() if not np.isfinite(value)]
    return finished.info.run_id, finished.data.metrics


def artifact(run_id: str, path: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{path}"))


@pytest.mark.parametrize("toy", TOY_RATINGS)
def test_degenerate_ratings_have_the_cost_of_a_loop(tmp_path, toy, capsys):
    n_movies, _, _, n_likes = TOY_RATINGS[toy]
    data = write(tmp_path, toy)
    matrix, _ = run(build_matrix, *data)
    params = mlflow.get_run(matrix).data.params
    assert not re.search(r"\b1 (\w+s|entries)\b", capsys.readouterr().out)
    assert (params["data/likes"], params["data/movies"]) == (str(n_likes), str(n_movies))
    counts = cooccurrence_by_loop(load_likes(artifact(matrix, "matrix")).matrix.toarray())

    # dim is larger than the number of movies.
    asked = ["--matrix", f"runs:/{matrix}/matrix", "--dim", "9", "--epochs", "30"]
    costs = {}
    for optimizer, reference in (("exact", "false"), ("adam", "true")):
        how = ["--optimizer", optimizer, "--reference", reference]
        fit, metrics = run(fit_embedding, *asked, *how)
        vectors = np.load(artifact(fit, "embedding/vectors.npy"))
        assert vectors.shape == (n_movies, 9)
        costs[optimizer] = metrics["final/cost"]
        # The vectors are float32, so their products are off by 1e-7 of up to 100.
        expected = cost_by_loop(vectors, counts)
        assert metrics["final/cost"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert 0 <= costs["exact"] <= costs["adam"]

    asked_of = ["--model", f"runs:/{fit}/model", "--score", "cosine"]
    title = "Movie A"
    if toy == "one user":  # who likes the movies C, D and E
        with pytest.raises(TitleError, match=r'No user likes "Movie A \(1990\)" in these data'):
            recommend.main(["--title", title, *asked_of])
        title = "Movie C"
    recommend.main(["--title", title, *asked_of])
    table = artifact(mlflow.last_active_run().info.run_id, "recommendations.json")
    answer = pd.read_json(table, orient="split")
    others = set(range(n_movies)) - {"ABCDE".index(title[-1])}
    assert set(answer.get("movie_id", [])) == others


FEW = [
    "--epochs",
    "5",
    "--optimizers",
    "adam,lbfgs",
    "--learning-rates",
    "0.1",
    "--titles",
    "Movie A",
    "--k",
    "3",
]


@pytest.mark.parametrize("toy", ["one movie", "one star for all"])
def test_costs_are_not_compared_with_a_cost_of_zero(tmp_path, toy):
    data = write(tmp_path, toy)
    with pytest.raises(DataError, match=r"^dim: expected one at which .* use a smaller dim, or "):
        compare_optimizers.main([*data, "--titles", "Movie A", "--dim", "9"])
    assert mlflow.last_active_run().info.status == "FAILED"


@pytest.mark.parametrize("toy", TOY_RATINGS)
def test_too_few_likes_to_evaluate_by_are_a_sentence(tmp_path, toy):
    data = write(tmp_path, toy)
    with pytest.raises(DataError, match=r"with at least 7 likes, but the most .* has is [0-5]: "):
        evaluate_embedding.main([*data, "--dims", "2", "--resamples", "100"])


def test_one_user_with_likes_enough_is_evaluated(tmp_path):
    """The only user's likes are held out and found, or not; k must leave something to find."""
    (tmp_path / "movies.csv").write_text(
        "movieId,title,genres\n" + "".join(f"{m},Movie {m},Drama\n" for m in range(12))
    )
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating\n" + "".join(f"0,{m},4\n" for m in range(12))
    )
    asked = ["--ratings", str(tmp_path), "--dims", "2,20", "--resamples", "100"]
    _, metrics = run(evaluate_embedding, *asked, "--k", "3")
    assert 0 <= metrics["test/hit_rate"] <= 1
    with pytest.raises(
        OptionError, match="k: expected a whole number from 1 to 11, the movies that are left"
    ):
        evaluate_embedding.main([*asked, "--k", "12"])


def test_a_fit_that_explodes_is_refused_and_never_registered(store):
    exploding = ["--ratings", "sample", "--optimizer", "sgd", "--lr", "0.1", "--epochs", "3"]
    with pytest.raises(DivergedError, match=r"after 3 epochs the cost is \S+, \S+ times that of"):
        fit_embedding.main([*exploding, "--register", "true", "--model-name", "exploded"])
    with pytest.raises(MlflowException, match="not found"):
        store.get_registered_model("exploded")


def test_a_comparison_reports_fits_that_explode(store):
    options = ["--ratings", "sample", "--dim", "10", "--epochs", "3", "--learning-rates", "1,0.1"]
    run_id, _ = run(compare_optimizers, *options, "--titles", "Toy Story")
    table = mlflow.load_table("tables/fits.json", run_ids=[run_id]).set_index("fit")
    assert table["status"]["sgd lr=0.1"] == "diverged at epoch 1"
    assert table["status"]["adam lr=1"] == "fitted"
    assert "sgd lr=0.1 at epoch 1" in artifact(run_id, "summary.md").read_text(encoding="utf-8")


def test_repeated_titles_are_reported(tmp_path, capsys):
    data = write(tmp_path, "one star for all")
    movies = tmp_path / "movies.csv"
    movies.write_text(movies.read_text().replace("Movie B", "Movie A"))
    small = ["--dim", "2", "--optimizer", "exact"]
    matrix, _ = run(build_matrix, *data)
    for entry_point, arguments in (
        (None, ()),
        (fit_embedding, [*data, *small]),
        (fit_embedding, ["--matrix", f"runs:/{matrix}/matrix", *small]),
    ):
        if entry_point:
            run(entry_point, *arguments)
        said = "1 title stands in several rows of movies.csv, such as 'Movie A (1990)': their likes"
        assert said in capsys.readouterr().out
