"""The errors of recommend for models that are not movie embeddings of this project."""

from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.pyfunc import PythonModel
from typed_recommend import assert_is_a_sentence, recommend_typer

from embedlab_serving import movie_model

pytestmark = pytest.mark.slow
type_recommend = pytest.fixture(recommend_typer)


class Trap(PythonModel):
    """A model that is logged as a pickle, and that creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)

    def predict(self, context, model_input: pd.DataFrame, params=None):
        return model_input


def test_a_pickled_model_under_our_name_is_refused_unread(store, tmp_path, type_recommend):
    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=Trap(tmp_path / "read"),
            signature=movie_model.SIGNATURE,
            pip_requirements=["mlflow"],
            registered_model_name="pickled",
        )
    (tmp_path / "read").unlink(missing_ok=True)  # MLflow may look at what it has logged
    for uri in (logged.model_uri, "models:/pickled/1"):
        expected = f"'{uri}' is not an MLflow model from code: give one that"
        assert_is_a_sentence(type_recommend(uri), expected)
    assert not (tmp_path / "read").exists()


def test_a_model_of_scikit_learn_under_our_name_is_refused(store, type_recommend):
    from sklearn.linear_model import LinearRegression

    line = LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            line, name="model", pip_requirements=["mlflow"], registered_model_name="line"
        )
    store.set_registered_model_alias("line", "champion", "1")
    uri = "models:/line@champion"
    assert_is_a_sentence(type_recommend(uri), f"'{uri}' is not an MLflow model from code")


SOMEBODYS_CODE = """
import mlflow
import pandas as pd

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: pd.DataFrame, params=None):
        {body}

{before}
mlflow.models.set_model(Model())
"""


FAILS_AS_OURS = """raise mlflow.exceptions.MlflowException("the server's log says why")"""


@pytest.mark.parametrize(
    ("body", "before", "signature", "sentence"),
    [
        ("return model_input", "", None, "does not say what it takes: give one that"),
        ("return model_input", "", movie_model.SIGNATURE, "expected an answer of query, rank, "),
        ("return [1]", "", movie_model.SIGNATURE, "expected an answer of query, rank, movie_id,"),
        (
            "raise KeyError('x')",
            "",
            movie_model.SIGNATURE,
            "its prediction failed (KeyError: 'x'): give one",
        ),
        (
            FAILS_AS_OURS,
            "",
            movie_model.SIGNATURE,
            "its prediction failed (the server's log says why): give",
        ),
        ("", "import nowhere_at_all", movie_model.SIGNATURE, "No module named 'nowhere_at_all'"),
        ("", "1 / 0", movie_model.SIGNATURE, "division by zero"),
    ],
    ids=[
        "no signature", "other columns", "no table", "fails", "fails as ours",
        "lacks a package", "does not start",
    ],
)  # fmt: skip
def test_code_of_somebody_else_is_a_sentence(
    store, tmp_path, type_recommend, body, before, signature, sentence
):
    script = tmp_path / "somebodys.py"
    script.write_text(SOMEBODYS_CODE.format(body=body or "pass", before=""))
    folder = tmp_path / "model"
    mlflow.pyfunc.save_model(
        str(folder), python_model=str(script), signature=signature, pip_requirements=["mlflow"]
    )
    (folder / script.name).write_text(SOMEBODYS_CODE.format(body=body or "pass", before=before))
    assert_is_a_sentence(type_recommend(folder), sentence)


def test_a_model_without_a_python_function_is_a_sentence(tmp_path, type_recommend):
    for text in ("flavors: {}\n", "flavors: {spark: {}}\nrun_id: a\n"):
        (tmp_path / "MLmodel").write_text(text)
        assert_is_a_sentence(type_recommend(tmp_path), "is not an MLflow model from code")
