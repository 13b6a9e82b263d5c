"""The served movie embedding, as MLflow's models-from-code: this file is the model's code.

MLflow runs it when the model is logged and when it is loaded; its imports find the model's own copy
of this package, `embedlab_serving_<digest>`. The model needs numpy, pandas and rapidfuzz, but
no torch, no scipy and no pickle.

In: a table with the column `title`, one query per row; parameters `k`, `score`, `include_self`.
A query is a movie's title as people type it, or several joined by `|`, which gives a blended list.
Out: one row per recommendation: query (the titles as they were understood), rank, movie_id, title,
genres, score.
"""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from embedlab_serving.digests import check_model
from embedlab_serving.errors import OptionError, TitleError
from embedlab_serving.http_errors import map_errors
from embedlab_serving.neighbours import Neighbours, Recommendation
from embedlab_serving.titles import TitleIndex

ARTIFACT = "embedding"
VECTORS_FILE, MOVIES_FILE = "vectors.npy", "movies.csv"
MAX_QUERIES = 1_000
MAX_RECOMMENDATIONS = 1_000

ANSWER = {  # column -> type
    "query": DataType.string,
    "rank": DataType.long,
    "movie_id": DataType.long,
    "title": DataType.string,
    "genres": DataType.string,
    "score": DataType.double,
}
COLUMNS = list(ANSWER)
DEFAULTS = {"k": 10, "score": "dot", "include_self": False}
PARAM_TYPES = {"k": DataType.long, "score": DataType.string, "include_self": DataType.boolean}
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "title")]),
    outputs=Schema([ColSpec(kind, name) for name, kind in ANSWER.items()]),
    params=ParamSchema([ParamSpec(n, kind, DEFAULTS[n]) for n, kind in PARAM_TYPES.items()]),
)


class MovieModel(PythonModel):
    """Titles in, recommendations out; safe for several threads once loaded."""

    def load_context(self, context: PythonModelContext) -> None:
        """Raises DataError if a file is not the one that was logged."""
        folder = Path(context.artifacts[ARTIFACT])
        # Not this file's folder: if a model has lost its code, MLflow runs the last model's code.
        check_model(folder.parents[1], SIGNATURE)
        vectors = np.load(folder / VECTORS_FILE, allow_pickle=False)  # (n_movies, dim) float32
        text = {"title": str, "genres": str}  # even if all titles look like numbers
        movies = pd.read_csv(folder / MOVIES_FILE, keep_default_na=False, dtype=text)
        # Selecting rows takes milliseconds in a table, but microseconds in an array.
        self._columns = {name: movies[name].to_numpy() for name in ("movie_id", "title", "genres")}
        self.neighbours = Neighbours(vectors)
        self.titles = TitleIndex(movies["title"].tolist(), movies["likes"].to_numpy())

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict | None = None
    ) -> pd.DataFrame:
        """A row per recommendation: COLUMNS. Raises MlflowException, as `map_errors` says."""
        with map_errors():
            return self._recommend(model_input["title"].tolist(), params or {})

    def _recommend(self, queries: list[str], params: dict) -> pd.DataFrame:
        if len(queries) > MAX_QUERIES:
            raise OptionError(
                f"expected at most {MAX_QUERIES:,} titles in a request, got {len(queries):,}: "
                "send them in parts"
            )
        # MLflow lets null through; it means the same as leaving the parameter out.
        options = DEFAULTS | {name: value for name, value in params.items() if value is not None}
        if not 1 <= options["k"] <= MAX_RECOMMENDATIONS:
            raise OptionError(
                f"k: expected a whole number from 1 to {MAX_RECOMMENDATIONS:,}, got {options['k']}"
            )
        understood: list[str] = []  # the query of each recommendation
        recommendations: list[Recommendation] = []
        for row, query in enumerate(queries):
            try:
                query_rows = self.titles.find_all(query)
            except TitleError as error:
                where = f"title in row {row}: " if len(queries) > 1 else ""
                raise TitleError(f"{where}{error}", error.candidates) from None
            duplicates = self.titles.duplicates_of(query_rows)
            nearest = self.neighbours.top(query_rows, **options, exclude=duplicates)
            understood += [" | ".join(self.titles.titles[row] for row in query_rows)] * len(nearest)
            recommendations += nearest
        rows = np.array([movie.row for movie in recommendations], np.int64)
        movies = {name: column[rows] for name, column in self._columns.items()}
        ranks = np.array([movie.rank for movie in recommendations], np.int64)
        scores = np.array([movie.score for movie in recommendations], np.float64)
        answer = {"query": understood, "rank": ranks, **movies, "score": scores}
        return pd.DataFrame(answer, columns=COLUMNS)


mlflow.models.set_model(MovieModel())
