"""The README and the pages of docs name only what exists: entry points, parameters, targets."""

import ast
import re
import shlex

import pytest
import yaml
from conftest import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
PAGES = sorted((PROJECT / "docs").glob("*.md"))
MAX_WORDS = 1_500  # of the README
TEXT = "\n".join([README, *(page.read_text(encoding="utf-8") for page in PAGES)])
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]
MLFLOW_RUNS = [command for command in COMMANDS if command[:2] == ["mlflow", "run"]]
ENTRY_POINTS = yaml.safe_load((PROJECT / "MLproject").read_text(encoding="utf-8"))["entry_points"]


def test_the_readme_is_short_and_every_page_is_in_the_index():
    assert len(README.split()) <= MAX_WORDS
    index = (PROJECT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (PROJECT / "docs").glob("*.md")} - {"README.md"}
    assert set(re.findall(r"^\| \[.*?\]\(([\w-]+\.md)\)", index, re.MULTILINE)) == pages


def test_the_readme_has_commands():
    assert len(MLFLOW_RUNS) >= 4
    assert ["make", "run"] in COMMANDS
    assert ["make", "test"] in COMMANDS


@pytest.mark.parametrize("command", MLFLOW_RUNS, ids=" ".join)
def test_every_run_names_an_entry_point_its_parameters_and_a_manager(command):
    entry_point = command[command.index("-e") + 1]
    # Without a manager, MLflow uses conda, unless the run is in a container.
    assert "--env-manager" in command or "kubernetes" in command
    parameters = [
        command[i + 1].partition("=")[0] for i, word in enumerate(command) if word == "-P"
    ]
    assert set(parameters) <= set(ENTRY_POINTS[entry_point]["parameters"])


def test_every_make_target_is_there():
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, flags=re.MULTILINE)
    assert {"run", "test", "ui", "bench"} <= set(targets)
    for target in set(targets):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_entry_point_and_its_named_parameters_are_in_the_table():
    page = (PROJECT / "docs" / "entry-points.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", page, flags=re.MULTILINE)
    assert [name for name, _ in rows] == list(ENTRY_POINTS)
    for name, parameters in rows:
        assert set(re.findall(r"`(\w+)`", parameters)) <= set(ENTRY_POINTS[name]["parameters"])


def test_the_python_in_it_parses():
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        assert ast.parse(block).body


def test_the_limits_of_a_request_are_those_of_the_code():
    from embedlab_serving import decode, image_model, movie_model
    from embedlab_serving.titles import MAX_QUERY, MAX_TITLES

    page = (PROJECT / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(movie-embedding|image-classifier)` \| (.*) \|$", page, re.M))
    assert rows["movie-embedding"] == (
        f"{movie_model.MAX_QUERIES:,} rows; {MAX_TITLES} titles a row, joined by `\\|`, of "
        f"{MAX_QUERY} characters each | `k` from 1 to {movie_model.MAX_RECOMMENDATIONS:,} (10), "
        "`score` `dot` or `cosine` (`dot`), `include_self` true or false (false)"
    )
    images, _, formats = rows["image-classifier"].partition(": ")
    assert images == (
        f"{image_model.MAX_IMAGES} rows; {image_model.MAX_CHARACTERS:,} characters of base64 "
        f"and {decode.MAX_PIXELS:,} pixels an image, as one of"
    )
    names, _, params = formats.partition(" | ")
    assert tuple(names.split(", ")) == decode.FORMATS  # as far as Pillow was built with them
    assert (
        params == f"`k` from 1 to the number of classes ({image_model.DEFAULT_K}, or all of fewer)"
    )
    for model, row in ((movie_model, "movie-embedding"), (image_model, "image-classifier")):
        parameters = re.findall(r"`(\w+)` (?:from|`dot`|true)", rows[row])
        assert parameters == [param.name for param in model.SIGNATURE.params]


def test_every_link_to_a_file_and_a_heading_leads_somewhere():
    pages = (PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *(PROJECT / "docs").glob("*.md"))
    for page in pages:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            if re.match("[a-z]+:", target):
                continue
            name, _, heading = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), (page.name, target)
            if heading:
                titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = [
                    re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
                ]
                assert heading in slugs, (page.name, target)
