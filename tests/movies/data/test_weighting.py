"""Weighted likes in files, digests, the matrix, a fit and the registry."""

import json

import numpy as np
import pytest
from conftest import fresh_store
from oracles import small_ratings
from ranked_likes import eighty_users, rng

from embedlab.errors import OptionError
from embedlab.movies.data.cooccurrence import build_cooccurrence
from embedlab.movies.data.likes import find_likes, load_likes, save_likes
from embedlab.movies.data.weighting import USER_WEIGHTS, weight_likes
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.fit import fit_likes
from embedlab.movies.solvers.minres import fit_minres
from entrypoints import build_matrix, compare_optimizers, evaluate_embedding, fit_embedding

WEIGHTS = [("inverse_sqrt", 0.0), ("none", 0.5), ("inverse", 0.25)]


@pytest.fixture(scope="module")
def ratings():
    return small_ratings(np.random.default_rng(0))


@pytest.mark.parametrize(("user_weight", "item_power"), [("none", 0.0), *WEIGHTS])
def test_likes_come_back_from_files_with_their_weighting(
    ratings, user_weight, item_power, tmp_path
):
    likes = find_likes(ratings, "user_mean", user_weight, item_power)
    save_likes(likes, tmp_path)
    loaded = load_likes(tmp_path)
    assert (loaded.user_weight, loaded.item_power) == (user_weight, item_power)
    assert (loaded.digest, loaded.cost_digest) == (likes.digest, likes.cost_digest)
    assert (loaded.weighted.matrix != likes.weighted.matrix).nnz == 0


def test_files_from_before_there_were_weights_are_the_published_likes(ratings, tmp_path):
    save_likes(find_likes(ratings, "user_mean"), tmp_path)
    about = json.loads((tmp_path / "about.json").read_text(encoding="utf-8"))
    del about["user_weight"], about["item_power"], about["sha256"]
    (tmp_path / "about.json").write_text(json.dumps(about), encoding="utf-8")
    likes = load_likes(tmp_path)
    assert (likes.user_weight, likes.item_power) == ("none", 0)


def test_costs_are_comparable_only_of_likes_that_are_weighted_alike(ratings):
    all_likes = [
        find_likes(ratings, "user_mean", *weights) for weights in [("none", 0.0), *WEIGHTS]
    ]
    assert len({likes.digest for likes in all_likes}) == 1
    assert len({likes.cost_digest for likes in all_likes}) == len(all_likes)
    assert all_likes[0].cost_digest == all_likes[0].digest  # as in versions without weights


@pytest.mark.parametrize("user_weight", USER_WEIGHTS)
@pytest.mark.parametrize("item_power", [0.0, 0.25, 0.5])
def test_the_weighted_matrix_is_the_sum_over_users_sparse_and_dense(
    ratings, user_weight, item_power
):
    likes = find_likes(ratings, "user_mean", user_weight, item_power)
    ones = likes.matrix.toarray().astype(float)  # (n_users, n_movies)
    n, x = ones.sum(axis=1), ones.sum(axis=0)
    expected = np.zeros((len(x), len(x)))
    for user, row in enumerate(ones):
        if n[user]:
            expected += np.outer(row, row) * n[user] ** -USER_WEIGHTS[user_weight]
    expected /= np.maximum(np.outer(x, x), 1) ** item_power
    # Raises if sparse and dense differ.
    result = build_cooccurrence(likes.weighted.matrix, "cpu")
    np.testing.assert_allclose(result.counts.toarray(), expected, rtol=1e-12)


def test_unweighted_likes_are_fitted_as_they_are(ratings):
    likes = find_likes(ratings, "user_mean")
    assert likes.weighted.matrix is likes.matrix
    assert (likes.weighted.scale == 1).all()


def test_vectors_of_weighted_likes_stand_for_the_unscaled_products(ratings):
    """With as many dimensions as movies, the fit is exact off the diagonal: v_i·v_j is the weighted
    sum over users, whatever `item_power` is."""
    likes = find_likes(ratings, "user_mean", "inverse_sqrt", 0.5)
    plain = find_likes(ratings, "user_mean", "inverse_sqrt", 0.0)
    options = FitOptions("exact", dim=likes.n_movies, epochs=5_000)
    fit = fit_likes(likes.weighted, options, 0, "cpu")
    expected = (plain.weighted.matrix.T @ plain.weighted.matrix).toarray()
    off = ~np.eye(likes.n_movies, dtype=bool)
    # A round that gains less than 1e-8 of the cost is the last: a hundredth of a count is left.
    np.testing.assert_allclose((fit.embedding @ fit.embedding.T)[off], expected[off], atol=0.05)


def test_the_weighted_fit_minimises_the_weighted_errors_and_keeps_fractions():
    likes = eighty_users()
    weighted = weight_likes(likes, "inverse", 0.25)
    fit = fit_minres(weighted, FitOptions("exact", dim=5), rng())
    v = weighted.to_embedding(fit.embedding).astype(np.float64)
    dense = likes.toarray() / np.sqrt(np.maximum(likes.sum(axis=1), 1)).A
    scale = np.maximum(np.asarray(likes.sum(axis=0)).ravel(), 1) ** 0.25
    errors = (v @ v.T - dense.T @ dense) / np.outer(scale, scale)
    np.fill_diagonal(errors, 0)
    # The embedding is kept as float32.
    assert np.square(errors).sum() == pytest.approx(fit.cost, rel=1e-4)
    nudged = fit_minres(weighted, FitOptions("exact", dim=5), rng()).embedding + 0.05
    other = weighted.to_embedding(nudged).astype(np.float64)
    errors = (other @ other.T - dense.T @ dense) / np.outer(scale, scale)
    np.fill_diagonal(errors, 0)
    assert np.square(errors).sum() > fit.cost


SMALL = ["--optimizer", "exact", "--dim", "5", "--embedding-map", "none"]


@pytest.fixture(scope="module")
def weighted_matrix(tmp_path_factory):
    """A store with a run of build_matrix on weighted likes, and that run."""
    with fresh_store(tmp_path_factory.mktemp("matrix")) as client:
        build_matrix.main(["--ratings", "sample", "--user-weight", "inverse"])
        (run,) = client.search_runs(["1"])
        yield client, run


@pytest.mark.slow
def test_a_fit_takes_the_weighting_of_its_matrix(weighted_matrix):
    client, matrix = weighted_matrix
    fit_embedding.main(["--matrix", f"runs:/{matrix.info.run_id}/matrix", *SMALL])
    fit_embedding.main(["--ratings", "sample", "--user-weight", "inverse", *SMALL])
    by_ratings, by_matrix = client.search_runs(["1"], "tags.entry_point = 'fit_embedding'")[:2]
    assert by_matrix.data.params["resolved/user_weight"] == "inverse"
    assert by_ratings.data.params["user_weight"] == "inverse"
    assert by_matrix.data.metrics["final/cost"] == by_ratings.data.metrics["final/cost"]
    digests = {run.data.params["data_digest"] for run in (matrix, by_matrix, by_ratings)}
    assert len(digests) == 1


@pytest.mark.slow
def test_a_parameter_that_contradicts_the_matrix_is_refused(weighted_matrix, tmp_path):
    (tmp_path / "other").mkdir()
    contradictions = [
        (["--user-weight", "inverse_sqrt"], "user_weight: expected inverse, .* got inverse_sqrt"),
        (["--item-power", "0.25"], "item_power: expected 0.0, .* got 0.25"),
        (["--like-rule", "threshold:4"], "like_rule: expected user_mean, .* got threshold:4"),
        (["--ratings", str(tmp_path / "other")], "ratings: expected sample, .* got other"),
    ]
    _, matrix = weighted_matrix
    source = f"runs:/{matrix.info.run_id}/matrix"
    for arguments, sentence in contradictions:
        for fit in (fit_embedding, compare_optimizers, evaluate_embedding):
            if fit is evaluate_embedding and arguments[0] in ("--user-weight", "--item-power"):
                continue  # it has no such parameter
            with pytest.raises(OptionError, match=sentence):
                fit.main(["--matrix", source, *arguments])
    agreeing = ["--ratings", "sample", "--user-weight", "inverse"]
    fit_embedding.main(["--matrix", source, *agreeing, *SMALL])


@pytest.mark.slow
def test_versions_of_other_weightings_are_compared_by_ndcg_and_not_by_cost(tmp_path, capsys):
    with fresh_store(tmp_path) as client:
        for more in (
            ["--promote-by", "ndcg"],
            ["--promote-by", "ndcg", "--user-weight", "inverse"],
            ["--user-weight", "inverse", "--model-name", "by-cost"],
            ["--model-name", "by-cost"],
        ):
            register = ["--register", "true", *more]
            fit_embedding.main(["--ratings", "sample", *SMALL, *register])
        first, second = (client.get_model_version("movie-embedding", v).tags for v in "12")
        champion = client.get_model_version_by_alias("movie-embedding", "champion").version
        by_cost = client.get_model_version_by_alias("by-cost", "champion").version
    assert 0 < float(first["ndcg"]) < 1
    assert first["data_digest"] == second["data_digest"]
    is_better = float(second["ndcg"]) > float(first["ndcg"])
    assert str(champion) == ("2" if is_better else "1")
    assert str(by_cost) == "1"  # another X, so other costs: nothing is taken from it
