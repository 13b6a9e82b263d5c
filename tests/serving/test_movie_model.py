"""The served movie model: its files, its answers, and what a caller reads when it refuses.

It has twelve movies with difficult titles, and vectors in which every movie has a neighbour.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from cards import card_of
from conftest import PROJECT, free_port, fresh_store
from mlflow.pyfunc import PyFuncModel, scoring_server
from served_models import (
    AMELIE,
    LE_TROU,
    LEON,
    MATRIX,
    MOVIES,
    SERVER_PACKAGES,
    TOY_STORY,
    Response,
    ask,
    assert_hides,
    call,
    send,
    shows_internals,
    wait_for,
    write_digests,
)

from embedlab.tracking.lifecycle import start_run
from embedlab.tracking.registry.versions import register
from embedlab.workflows.movies.model import log_movie_model
from embedlab_serving.digests import DIGESTS
from embedlab_serving.neighbours import Neighbours

pytestmark = pytest.mark.slow

ROW = {title: row for row, title in enumerate(MOVIES["title"])}
COLUMNS = ["query", "rank", "movie_id", "title", "genres", "score"]


@dataclass(frozen=True)
class Served:
    """A logged model, a copy of its folder from before it was loaded, and its store's folder."""

    uri: str
    copy: Path
    model: PyFuncModel
    vectors: np.ndarray
    folder: Path

    def ask(self, *titles: str, **params: object) -> pd.DataFrame:
        return self.model.predict(pd.DataFrame({"title": titles}), params=params)

    def expected(self, title: str, *others: str, **options: object) -> pd.DataFrame:
        """The answer that `Neighbours` gives, one row per recommendation."""
        titles = (title, *others)
        rows = [ROW[title] for title in titles]
        return pd.DataFrame(
            [
                (" | ".join(titles), item.rank, *MOVIES.iloc[item.row, :3], item.score)
                for item in Neighbours(self.vectors).top(rows, **options)
            ],
            columns=COLUMNS,
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    vectors = np.random.default_rng(0).normal(size=(len(MOVIES), 4)).astype(np.float32)
    with fresh_store(folder):
        with start_run("fit_embedding", "fit", {}) as run:
            uri = log_movie_model(run, vectors, MOVIES, {"data": "twelve movies", "cost": 1.5})
        copy = mlflow.artifacts.download_artifacts(uri, dst_path=tmp_path_factory.mktemp("copy"))
        yield Served(uri, Path(copy), mlflow.pyfunc.load_model(uri), vectors, folder)


@pytest.fixture(scope="module")
def model_folder(served) -> Path:
    return served.copy


# -- what is in it -----------------------------------------------------------------------------


def test_the_model_holds_code_and_arrays_and_no_pickle(model_folder):
    files = {str(path.relative_to(model_folder)) for path in model_folder.rglob("*.*")}
    (package,) = (model_folder / "code").glob("embedlab_serving_*")
    assert files >= {
        "artifacts/embedding/vectors.npy",
        "artifacts/embedding/movies.csv",
        "artifacts/embedding/about.json",
        "movie_model.py",
        f"code/{package.name}/titles.py",
    }
    assert {Path(name).suffix for name in files} <= {
        ".py",
        ".npy",
        ".csv",
        ".json",
        ".yaml",
        ".txt",
    }
    pickled_protocol = re.compile(rb"\x80[\x02-\x05]")
    for path in filter(Path.is_file, model_folder.rglob("*")):
        assert not pickled_protocol.match(path.read_bytes()), path
    np.load(model_folder / "artifacts/embedding/vectors.npy", allow_pickle=False)


def test_the_run_has_the_embedding_as_files_readable_without_mlflow(served):
    run_id = served.model.metadata.run_id
    folder = Path(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/embedding"))
    np.testing.assert_array_equal(np.load(folder / "vectors.npy"), served.vectors)
    movies = pd.read_csv(folder / "movies.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(movies, MOVIES, check_dtype=False)
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    assert about == {"data": "twelve movies", "cost": 1.5}


def test_vectors_that_somebody_replaced_by_a_pickle_are_refused(model_folder, tmp_path):
    """A forger can write new digests, too, but even then no pickle is read."""
    copy = shutil.copytree(model_folder, tmp_path / "model")
    pickled = np.array([{"an": "object"}])
    np.save(copy / "artifacts/embedding/vectors.npy", pickled, allow_pickle=True)
    write_digests(copy)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        mlflow.pyfunc.load_model(str(copy))


IN_ANOTHER_PROCESS = """
import json, sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "scipy"):
            raise ModuleNotFoundError(f"no {name} here", name=name)

sys.meta_path.insert(0, Missing())
import mlflow, pandas as pd
uri, title = sys.argv[1:]
model = mlflow.pyfunc.load_model(uri)
answer = model.predict(pd.DataFrame({"title": [title]}), params={"k": 3})
ours = sorted(name for name in sys.modules if name.startswith("embedlab"))
print(json.dumps([[sys.modules[name].__file__ for name in ours], answer.to_dict("list")]))
"""


def test_the_model_needs_nothing_but_itself(served, model_folder, tmp_path):
    """It runs in another process and folder, without the project, torch, scipy and pickle."""
    ended = subprocess.run(
        [sys.executable, "-I", "-c", IN_ANOTHER_PROCESS, str(model_folder), "amelie"],
        cwd=tmp_path,
        env=os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    modules, answer = json.loads(ended.stdout)
    assert modules
    assert {Path(module).parents[1] for module in modules} == {model_folder / "code"}
    assert answer == served.expected(AMELIE, k=3).to_dict("list")


def test_the_signature_says_what_goes_in_and_out(served):
    signature = served.model.metadata.signature
    assert [(c.name, c.type.name, c.required) for c in signature.inputs] == [
        ("title", "string", True)
    ]
    assert [(p.name, p.dtype.name, p.default) for p in signature.params] == [
        ("k", "long", 10),
        ("score", "string", "dot"),
        ("include_self", "boolean", False),
    ]
    assert [(c.name, c.type.name) for c in signature.outputs] == [
        ("query", "string"),
        ("rank", "long"),
        ("movie_id", "long"),
        ("title", "string"),
        ("genres", "string"),
        ("score", "double"),
    ]
    metadata = served.model.metadata.metadata
    assert metadata == {"data": "twelve movies", "cost": 1.5, DIGESTS: metadata[DIGESTS]}


def test_the_input_example_is_the_most_popular_movie_and_works(served, model_folder, post):
    request = (model_folder / "serving_input_example.json").read_text(encoding="utf-8")
    assert json.loads(request) == {
        "dataframe_split": {"columns": ["title"], "data": [[TOY_STORY]]},
        "params": {"k": 3},
    }
    answer = json.loads(post(request).text)["predictions"]
    assert answer == served.expected(TOY_STORY, k=3).to_dict("records")


def test_requirements_are_exact_and_few(model_folder):
    lines = (model_folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [re.fullmatch(r"(\w+)==\d[\w.]*(; sys_platform .*)?", line)[1] for line in lines]
    assert names == [*SERVER_PACKAGES, "rapidfuzz"]  # no torch, no scipy
    project = (PROJECT / "requirements.txt").read_text(encoding="utf-8")
    assert set(lines) <= {line.partition("#")[0].strip() for line in project.splitlines()}


# -- what it answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["dot", "cosine"])
@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("k", [1, 4, 1000])  # 1000: all movies
def test_answers_are_those_of_the_neighbours(served, k, score, include_self):
    options = {"k": k, "score": score, "include_self": include_self}
    answer = served.ask("toy story", **options)
    pd.testing.assert_frame_equal(answer, served.expected(TOY_STORY, **options), check_dtype=False)
    assert list(answer.columns) == COLUMNS


def test_defaults_are_ten_movies_by_inner_product_without_the_query(served):
    answer = served.model.predict(pd.DataFrame({"title": ["toy story"]}))
    expected = served.expected(TOY_STORY, k=10, score="dot", include_self=False)
    pd.testing.assert_frame_equal(answer, expected, check_dtype=False)


def test_a_null_parameter_is_one_that_was_not_given(served):
    answer = served.ask("toy story", k=None, score=None, include_self=None)
    pd.testing.assert_frame_equal(answer, served.ask("toy story"))


def test_several_rows_are_answered_one_after_the_other(served):
    answer = served.ask("matrix", "le trou", k=2)
    both = [served.expected(title, k=2) for title in (MATRIX, LE_TROU)]
    expected = pd.concat(both, ignore_index=True)
    pd.testing.assert_frame_equal(answer, expected, check_dtype=False)


def with_movies(model_folder: Path, copy: Path, movies: pd.DataFrame) -> PyFuncModel:
    """The model with another table of movies."""
    shutil.copytree(model_folder, copy)
    movies.to_csv(copy / "artifacts/embedding/movies.csv", index=False)
    write_digests(copy)
    return mlflow.pyfunc.load_model(str(copy))


def test_another_row_of_the_movie_that_was_asked_for_is_not_recommended(model_folder, tmp_path):
    """MovieLens 100K has 18 movies in two rows each, with separate likes."""
    movies = MOVIES.assign(title=MOVIES["title"].replace("Hamlet (1948)", "Toy Story (1995)"))
    model = with_movies(model_folder, tmp_path / "model", movies)
    for more, expected in (({}, 0), ({"include_self": True}, 1)):
        answer = model.predict(pd.DataFrame({"title": ["toy story"]}), params={"k": 20, **more})
        assert answer["title"].tolist().count("Toy Story (1995)") == expected
        assert len(answer) == len(movies) - 2 + expected


def test_a_movie_that_nobody_likes_is_refused(model_folder, tmp_path):
    likes = MOVIES["likes"].where(MOVIES["title"] != TOY_STORY, 0)
    model = with_movies(model_folder, tmp_path / "model", MOVIES.assign(likes=likes))
    for title in ("toy story", f"{MATRIX}|toy story"):
        refused = r'title in row 1: No user likes "Toy Story \(1995\)" in these data'
        with pytest.raises(mlflow.MlflowException, match=refused):
            model.predict(pd.DataFrame({"title": [MATRIX, title]}))
    assert len(model.predict(pd.DataFrame({"title": [MATRIX]}))) == 10


def test_titles_that_look_like_numbers_are_titles(model_folder, tmp_path):
    titles = [f"{year:04}" for year in range(len(MOVIES))]
    model = with_movies(model_folder, tmp_path / "model", MOVIES.assign(title=titles))
    answer = model.predict(pd.DataFrame({"title": ["0007"]}), params={"k": 20})
    assert set(answer["query"]) == {"0007"}
    assert sorted(answer["title"]) == [title for title in titles if title != "0007"]


def test_titles_joined_by_a_bar_give_one_blended_list(served):
    answer = served.ask("toy story | leon the professional", k=3)
    expected = served.expected(TOY_STORY, LEON, k=3)
    pd.testing.assert_frame_equal(answer, expected, check_dtype=False)
    assert not {TOY_STORY, LEON} & set(answer["title"])


@pytest.mark.parametrize(
    ("typed", "title"),
    [
        ("AMELIE", AMELIE),
        ("le fabuleux destin d'amelie poulain", AMELIE),
        ("the matrix", "Matrix, The (1999)"),
        ("se7en", "Seven (a.k.a. Se7en) (1995)"),
        ("the hole", "Trou, Le (Hole, The) (1960)"),
        ("hamlet 1948", "Hamlet (1948)"),
        ("Hamlet (1996)", "Hamlet (1996)"),
        ("Fawlty Towers 1977", "Fawlty Towers (1975-1979)"),
        ("black mirror", "Black Mirror"),
        ('"great performances" cats', '"Great Performances" Cats (1998)'),
    ],
)
def test_the_query_column_says_which_movie_was_understood(served, typed, title):
    assert served.ask(typed, k=1)["query"].tolist() == [title]


# -- what a caller reads -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def post(served):
    app = scoring_server.init(served.model)

    def post(body: object, content_type: str | None = "application/json") -> Response:
        text = body if isinstance(body, str | bytes) else json.dumps(body)
        return call(app, text if isinstance(text, bytes) else text.encode(), content_type)

    return post


@pytest.mark.parametrize(
    "body",
    [
        ask("toy story", k=2),
        {"dataframe_split": {"columns": ["title"], "data": [["toy story"]]}, "params": {"k": 2}},
        {"inputs": {"title": ["toy story"]}, "params": {"k": 2}},
        {"inputs": [{"title": "toy story"}], "params": {"k": 2}},
        {"instances": [{"title": "toy story"}], "params": {"k": 2}},
    ],
    ids=["records", "split", "inputs", "inputs-list", "instances"],
)
def test_every_json_form_is_answered(served, post, body):
    response = post(body)
    assert response.status == 200
    assert json.loads(response.text) == {
        "predictions": served.ask("toy story", k=2).to_dict("records")
    }


def test_csv_is_answered_with_the_default_parameters(served, post):
    response = post("title\ntoy story\nAmélie\n", "text/csv")
    assert response.status == 200
    expected = served.ask("toy story", "Amélie").to_dict("records")
    assert json.loads(response.text)["predictions"] == expected


def test_a_table_without_rows_is_answered_without_rows(post):
    assert post("title\n", "text/csv") == Response(200, '{"predictions": []}')


def test_a_parameter_that_is_unknown_never_reaches_the_model(post):
    """MLflow drops it, with a warning in the server's log, as docs/serving.md says."""
    assert post(ask("toy story", k=2, n=5)) == post(ask("toy story", k=2))


def test_a_thousand_titles_fit_in_a_request(post):
    response = post(ask(*["toy story"] * 1000, k=1))
    assert (response.status, len(json.loads(response.text)["predictions"])) == (200, 1000)


NOT_TEXT = r"A movie title must be text, but found {}.*; write one such as .*"
NO_TITLE = r"Model is missing inputs \['title'\]\."
NOT_A_NUMBER = r"Can not safely convert `<class '{}'>` to `DataType.long` for value `{}`"
REFUSED = {
    "unknown": (
        ask("toy sorty 7"),
        r'No movie is called "toy sorty 7", but the nearest titles? (is|are) Toy Story.*',
    ),
    "ambiguous": (
        ask("hamlet"),
        r'"hamlet" fits 2 movies: Hamlet \(1996\); Hamlet \(1948\); write one of these titles .*',
    ),
    "wrong year": (ask("hamlet 1990"), r'No movie of 1990 is called "hamlet", but there is .*'),
    "one of several": (
        ask(*["toy story"] * 17, "no such", *["toy story"] * 982),
        r'title in row 17: No movie is called "no such".*',
    ),
    "a number among several": (
        ask("toy story", 7),
        "title in row 1: " + NOT_TEXT.format(r"7 \(int\)"),
    ),
    "one of a blend": (ask("toy story | no such"), r'No movie is called "no such".*'),
    "k=0": (ask("toy story", k=0), r"k: expected a whole number from 1 to 1,000, got 0"),
    "k=-1": (ask("toy story", k=-1), r"k: expected a whole number from 1 to 1,000, got -1"),
    "k=1001": (ask("toy story", k=1001), r"k: expected a whole number from 1 to 1,000, got 1001"),
    "k='3'": (ask("toy story", k="3"), f".*{NOT_A_NUMBER.format('str', '3')}.*"),
    "k=3.5": (ask("toy story", k=3.5), f".*{NOT_A_NUMBER.format('float', '3.5')}.*"),
    "k=true": (ask("toy story", k=True), f".*{NOT_A_NUMBER.format('bool', 'True')}.*"),
    "score=foo": (
        ask("toy story", score="foo"),
        r"score: expected one of dot, cosine, got 'foo'\.",
    ),
    "include_self=x": (
        ask("toy story", include_self="x"),
        r".*Can not safely convert `<class 'str'>` to `DataType.boolean` for value `x`.*",
    ),
    "blank": (ask(" \t"), r"A movie title was expected, but the text is blank; write one .*"),
    "null": (ask(None), NOT_TEXT.format(r"None \(NoneType\)")),
    "number": (ask(1984), NOT_TEXT.format(r"1984 \(int\)")),
    "list": (ask(["toy story"]), NOT_TEXT.format(r"\['toy story'\] \(list\)")),
    "long": (ask("x" * 501), r"A movie title has at most 500 characters, but found 501; .*"),
    "no column": ({"dataframe_records": [{"name": "toy story"}]}, f".*{NO_TITLE}.*"),
    "no rows": (ask(), f".*{NO_TITLE}.*"),
    "1,001 titles": (
        ask(*["toy story"] * 1001),
        r"expected at most 1,000 titles in a request, got 1,001: send them in parts",
    ),
    "51 titles in one": (ask("|".join(["x"] * 51)), r"At most 50 titles fit in one query, .*"),
}


@pytest.mark.parametrize(("body", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_bad_request_is_400_with_a_sentence(post, body, sentence):
    response = post(body)
    assert response.status == 400
    answer = json.loads(response.text)
    assert answer["error_code"] == "INVALID_PARAMETER_VALUE"
    # MLflow prepends the table of the request.
    assert re.fullmatch(
        rf"Failed to predict data '.*'\. \nError: {sentence}", answer["message"], re.S
    )
    assert not shows_internals(response.text)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "part"),
    [
        ("{", "application/json", 400, "Ensure that input is a valid JSON formatted string"),
        ("", "application/json", 400, "Ensure that input is a valid JSON formatted string"),
        ("[1]", "application/json", 400, "The input must be a JSON dictionary with exactly one of"),
        ("{}", "application/json", 400, "The input must be a JSON dictionary with exactly one of"),
        (ask("toy story") | {"params": [3]}, "application/json", 400, "must be a dictionary"),
        ("name\ntoy story\n", "text/csv", 400, "Model is missing inputs ['title']"),
        (b"title\nAm\xe9lie\n", "text/csv", 400, "Ensure that input is a valid UTF-8"),
        ("<title/>", "text/xml", 415, "only supports the following content types"),
    ],
)
def test_a_malformed_request_is_refused_by_mlflow(post, body, content_type, status, part):
    response = post(body, content_type)
    assert response.status == status
    assert part in response.text
    assert not shows_internals(response.text)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [('title\n"toy', "text/csv"), ("", "text/csv"), ("?", "application/vnd.apache.parquet")],
)
def test_known_exception_mlflow_itself_shows_its_stack_for_a_broken_table(post, body, content_type):
    """The model cannot prevent it: MLflow reads CSV and Parquet before any code of the model runs
    (`parse_csv_input` of scoring_server). This test fails once MLflow no longer does it.
    """
    response = post(body, content_type)
    assert response.status == 400
    assert "Failed to parse input as a Pandas DataFrame" in response.text
    assert shows_internals(response.text)


def test_known_exception_a_request_without_content_type_is_mlflows_own_failure(post):
    """scoring_server raises AttributeError; a real server answers 500, without the trace."""
    with pytest.raises(AttributeError):
        post(ask("toy story"), content_type=None)


def test_a_failure_inside_is_500_without_any_detail(served, post, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("secret of /home/someone")

    neighbours = served.model.unwrap_python_model().neighbours  # of the model's own code
    monkeypatch.setattr(type(neighbours), "scores", broken)
    response = post(ask("toy story"))
    assert_hides(response, "secret of /home/someone", caplog.text)


# -- a real server -----------------------------------------------------------------------------


def test_a_real_server_the_entry_point_and_the_model_agree(served, tmp_path):
    champion = register(served.uri, "movie-embedding", card_of("a")).uri
    assert champion == "models:/movie-embedding@champion"
    command = ["mlflow", "models", "serve", "-m", champion, "--env-manager", "local"]
    asked = ["--title", "Amélie", "--model", champion, "--k", "3", "--score", "dot"]
    port, log = free_port(), tmp_path / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)],
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        recommend = subprocess.run(
            [sys.executable, "-m", "entrypoints.recommend", *asked],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        address = f"http://127.0.0.1:{port}"
        wait_for(address, server, log)
        response = send(address, ask("Amélie", k=3, score="dot"))
        unknown = send(address, ask("no such"))
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=20)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
    assert response.status == 200
    answer = pd.DataFrame(json.loads(response.text)["predictions"])
    loaded = mlflow.pyfunc.load_model(champion)
    again = loaded.predict(pd.DataFrame({"title": ["Amélie"]}), params={"k": 3, "score": "dot"})
    pd.testing.assert_frame_equal(answer, again, check_dtype=False)
    assert recommend.returncode == 0, recommend.stderr
    (table,) = served.folder.rglob("recommendations.json")
    logged = pd.DataFrame(**json.loads(table.read_text(encoding="utf-8")))
    pd.testing.assert_frame_equal(answer, logged, check_dtype=False)
    assert unknown.status == 400
    assert 'No movie is called \\"no such\\"' in unknown.text
    assert not shows_internals(unknown.text)
