"""The key by which a comparison finds a finished fit."""

import ast

from conftest import PROJECT

from embedlab.movies.options import FitOptions
from embedlab.workflows.movies import finished_fits
from embedlab.workflows.movies.finished_fits import FIT_CODE, fit_key


def test_the_key_of_a_fit_changes_with_all_that_its_result_depends_on(monkeypatch):
    usual = (FitOptions("adam", 1.0), 0, "digest", "cpu")
    others = [
        (FitOptions("adam", 0.1), *usual[1:]),
        (FitOptions("adamw", 1.0), *usual[1:]),
        (FitOptions("adam", 1.0, dim=20), *usual[1:]),
        (FitOptions("adam", 1.0, epochs=20), *usual[1:]),
        (FitOptions("adam", 1.0, objective="dense"), *usual[1:]),
        (FitOptions("adam", 1.0, init_scale=0.1), *usual[1:]),
        (usual[0], 1, "digest", "cpu"),
        (usual[0], 0, "other", "cpu"),
        (usual[0], 0, "digest", "cuda"),
    ]
    keys = [fit_key(*usual), *(fit_key(*other) for other in others)]
    monkeypatch.setattr(finished_fits, "FIT_CODE", ["movies/options.py"])  # other code
    keys.append(fit_key(*usual))
    assert len(set(keys)) == len(others) + 2
    monkeypatch.undo()
    assert fit_key(*usual) == keys[0]


def test_the_code_of_a_fit_is_all_that_the_solvers_import():
    root, modules, waiting = PROJECT / "src", set(), {"embedlab.movies.solvers.fit"}
    while waiting:
        name = waiting.pop()
        modules.add(name)
        path = root / f"{name.replace('.', '/')}.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = getattr(node, "module", None) or ""
            if isinstance(node, ast.ImportFrom) and module.startswith("embedlab.movies."):
                waiting |= {module} - modules
    code = {path for pattern in FIT_CODE for path in (root / "embedlab").glob(pattern)}
    assert {root / f"{name.replace('.', '/')}.py" for name in modules} <= code
