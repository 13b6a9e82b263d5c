"""MLproject, conda.yaml, requirements.txt and the parsers say the same."""

import ast
import importlib
import re
import shlex
import sys
from importlib.metadata import packages_distributions
from string import Formatter

import pytest
import yaml
from conftest import PROJECT
from mlflow.projects import load_project

SPEC = load_project(str(PROJECT))
ENTRY_POINTS = SPEC._entry_points
MODULES = {path.stem for path in (PROJECT / "entrypoints").glob("[!_]*.py")}
NAMES = sorted(MODULES & set(ENTRY_POINTS))
PIN = re.compile(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[0-9][0-9A-Za-z.+]*")
# Spaces, quotes, a leading dash, braces, and what a shell would expand.
AWKWARD = """- Schindler's "List" {k} $HOME `date` \\ ; * é"""


def parser_of(name):
    return importlib.import_module(f"entrypoints.{name}").build_parser()


def command_words(name, parameters, folder):
    """The words after `python -m entrypoints.<name>`, as MLflow's shell command gives them."""
    command = ENTRY_POINTS[name].compute_command(parameters, str(folder))
    python, m, module, *words = shlex.split(command)
    assert (python, m, module) == ("python", "-m", f"entrypoints.{name}")
    return words


def required_parameters(name):
    """A value for each parameter that has no default, in MLproject."""
    parameters = ENTRY_POINTS[name].parameters.values()
    return {parameter.name: "1" for parameter in parameters if parameter.default is None}


def requirement_lines(file):
    """The pins of a requirements file, without comments and markers."""
    lines = (PROJECT / file).read_text(encoding="utf-8").splitlines()
    return [pin for line in lines if (pin := re.split("[#;]", line)[0].strip())]


def test_every_entry_point_has_a_module_and_the_other_way_round():
    assert set(ENTRY_POINTS) == MODULES


@pytest.mark.parametrize("name", NAMES)
def test_parameters_placeholders_and_flags_are_the_same(name):
    entry_point = ENTRY_POINTS[name]
    _, _, _, *words = entry_point.command.split()
    pairs = list(zip(words[::2], words[1::2], strict=True))
    expected = [(f"--{p.replace('_', '-')}", f"{{{p}}}") for p in entry_point.parameters]
    assert pairs == expected
    fields = [field for _, field, _, _ in Formatter().parse(entry_point.command) if field]
    assert fields == list(entry_point.parameters)
    flags = [action.option_strings for action in parser_of(name).parameters.values()]
    assert sorted(flags) == sorted([flag] for flag, _ in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_both_defaults_are_the_same_value(name, tmp_path):
    parser, values = parser_of(name), required_parameters(name)
    flags = [word for key, value in values.items() for word in (f"--{key}", value)]
    assert parser.parse_args(command_words(name, values, tmp_path)) == parser.parse_args(flags)


@pytest.mark.parametrize("name", NAMES)
def test_both_defaults_are_spelled_the_same(name):
    """The MLflow UI compares texts: 0.001 and 1e-3 would be two values. (Booleans: true, false.)"""
    parser = parser_of(name)
    for parameter in ENTRY_POINTS[name].parameters.values():
        default = parser.get_default(parameter.name)
        spelled = str(default).lower() if isinstance(default, bool) else str(default)
        assert str(parameter.default) == spelled, parameter.name
    required = {action.dest for action in parser.parameters.values() if action.required}
    assert required == set(required_parameters(name))


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_is_a_path_or_uri(name):
    """MLflow resolves those in the caller's folder, and leaves the run RUNNING if that fails."""
    types = {p.name: p.type for p in ENTRY_POINTS[name].parameters.values()}
    assert set(types.values()) <= {"string", "int", "float"}, types


@pytest.mark.parametrize("name", ["main", "recommend"])
def test_an_awkward_title_arrives_unchanged(name, tmp_path):
    words = command_words(name, {"title": AWKWARD}, tmp_path)
    assert parser_of(name).parse_args(words).title == AWKWARD


def test_conda_yaml_holds_python_pip_and_the_one_list():
    assert SPEC.env_config_path == str(PROJECT / "conda.yaml")
    conda = yaml.safe_load((PROJECT / "conda.yaml").read_text(encoding="utf-8"))
    # Anything else would be missing under virtualenv and uv, or be an installed, stale project.
    assert conda["dependencies"] == ["python=3.11", "pip", {"pip": ["-r requirements.lock"]}]


def test_the_lock_holds_every_requirement_at_its_pin_and_a_hash_of_all():
    text = (PROJECT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", "")
    locked = [line.split() for line in text.splitlines() if line.strip()]
    pins = {words[0].lower() for words in locked}
    assert {line.lower() for line in requirement_lines("requirements.txt")} <= pins
    for pin, *rest in locked:
        assert PIN.fullmatch(pin)
        hashes = [word for word in rest if word.startswith("--hash=sha256:")]
        assert hashes, f"{pin} has no hash: run `make lock`"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in hashes)


def test_requirements_are_exact_pins():
    """Exact pins give every environment the same versions; `.` and `-e .` are no pins."""
    for line in requirement_lines("requirements.txt"):
        assert PIN.fullmatch(line), line
    first, *others = requirement_lines("requirements-dev.txt")
    assert first == "-r requirements.txt"
    for line in others:
        assert PIN.fullmatch(line), line


def test_nothing_installs_the_project_itself():
    names = {re.split(r"[=\[]", line)[0].lower() for line in requirement_lines("requirements.txt")}
    assert SPEC.name not in names
    installs = re.findall(r"pip install (.*)", (PROJECT / "Makefile").read_text(encoding="utf-8"))
    # The last one is of `make bench-peers`: a line of requirements-extra.txt.
    assert installs == ["-r /dev/stdin", "-r requirements.lock", "-r requirements-dev.txt"]


def third_party_imports():
    """Top-level import name -> one of the files that import it."""
    first_use = {}
    for folder in ("src", "entrypoints"):
        for path in sorted((PROJECT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    modules = [node.module]
                else:
                    continue
                for module in modules:
                    first_use.setdefault(module.partition(".")[0], path.relative_to(PROJECT))
    ours = {"embedlab", "embedlab_serving", "entrypoints"}
    return {
        name: path for name, path in first_use.items() if name not in ours | sys.stdlib_module_names
    }


def test_every_third_party_import_is_in_requirements():
    imports = third_party_imports()
    assert {"mlflow", "torch", "ray"} <= set(imports)
    lines = requirement_lines("requirements.txt") + requirement_lines("requirements-extra.txt")
    pinned = {re.split(r"[=\[]", line)[0].lower() for line in lines}
    distributions = packages_distributions()
    for name, path in imports.items():
        candidates = {d.lower() for d in distributions.get(name, [name])}
        assert candidates & pinned, f"{path} imports {name}, which requirements.txt lacks"
