"""Fits of toy likes, whose few movies need other learning rates than the defaults."""

from embedlab.movies.data.weighting import weight_likes
from embedlab.movies.options import FitOptions
from embedlab.movies.solvers.fit import fit_likes

# Few movies need smaller steps than the 9,742 movies that the defaults are for.
TOY_LR = {"adam": 0.05, "adamw": 0.05, "rmsprop": 0.02, "sgd": 2e-4, "lbfgs": 1.0}


def exact_options(dim, epochs=150) -> FitOptions:
    return FitOptions("exact", dim=dim, epochs=epochs)


def fit_toy(likes, optimizer, epochs=400, seed=0, dim=4, objective="factored"):
    history = []
    lr = TOY_LR.get(optimizer)
    options = FitOptions(optimizer, lr, dim, epochs, objective)
    return fit_likes(weight_likes(likes), options, seed, "cpu", history.append), history
