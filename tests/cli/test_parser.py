"""A bad argument is refused by one sentence before any heavy import, store or run."""

import importlib
import os
import re
import subprocess
import sys
import threading

import pytest
from conftest import PROJECT

from embedlab.cli.parser import EXIT_INTERRUPTED, run_main
from embedlab.errors import DataError, EmbedlabError, OptionError

ENTRY_POINTS = sorted(path.stem for path in (PROJECT / "entrypoints").glob("[!_]*.py"))
HEAVY = ("torch", "torchvision", "scipy", "pandas", "mlflow", "matplotlib")
RULES = "user_mean, user_median or threshold:<stars>"
OPTIMIZERS = "adam, rmsprop, sgd, adamw, lbfgs, exact"

# Entry point, arguments; the sentence names the parameter, what was expected, what was found.
BAD = [
    ("main", "ratings=nowhere", "sample, ml-latest-small or the path", "'nowhere'"),
    ("main", "ratings=", "sample, ml-latest-small or the path", "''"),
    ("main", "optimizer=adm", f"one of {OPTIMIZERS}", "'adm'; did you mean 'adam'?"),
    ("main", "optimizer=", f"one of {OPTIMIZERS}", "''"),
    ("main", "lr=0.1 optimizer=exact", "'auto' with optimizer=exact", "0.1"),
    ("main", "epochs=-1", "a whole number from 1 up", "'-1'"),
    ("main", "dim=0", "a whole number from 1 to 100000", "'0'"),
    ("main", "seed=-1", "a whole number from 0 up", "'-1'"),
    ("main", "title=", "a movie's title", "got '"),
    ("build_matrix", "ratings=nowhere", "sample, ml-latest-small or the path", "'nowhere'"),
    ("build_matrix", "like_rule=mean", RULES, "'mean'"),
    ("build_matrix", "like_rule=", RULES, "''"),
    ("build_matrix", "like_rule=user_mean:", RULES, "'user_mean:'"),
    ("build_matrix", "like_rule=threshold", RULES, "'threshold'"),
    ("build_matrix", "like_rule=threshold:", "threshold:<0.5 to 5 stars>", "'threshold:'"),
    ("build_matrix", "like_rule=threshold:9", "threshold:<0.5 to 5 stars>", "'threshold:9'"),
    ("build_matrix", "like_rule=threshold:nan", "threshold:<0.5 to 5 stars>", "'threshold:nan'"),
    ("build_matrix", "dense=perhaps", "true or false", "'perhaps'"),
    ("build_matrix", "device=gpu", "one of auto, cpu, cuda", "'gpu'"),
    ("fit_embedding", "ratings=", "sample, ml-latest-small or the path", "''"),
    ("fit_embedding", "epochs=-1", "a whole number from 1 up", "'-1'"),
    ("fit_embedding", "epochs=0", "a whole number from 1 up", "'0'"),
    ("fit_embedding", "epochs=1.5", "a whole number from 1 up", "'1.5'"),
    ("fit_embedding", "epochs=99999999999", "from 1 to 2147483647", "'99999999999'"),
    ("fit_embedding", "optimizer=adm", f"one of {OPTIMIZERS}", "'adm'; did you mean 'adam'?"),
    ("fit_embedding", "optimizer=two\nlines", f"one of {OPTIMIZERS}", r"'two\nlines'"),
    ("fit_embedding", "optimizer=%s%(x)d", f"one of {OPTIMIZERS}", "'%s%(x)d'"),
    ("fit_embedding", "lr=fast", "'auto' or a number above 0", "'fast'"),
    ("fit_embedding", "lr=-1", "'auto' or a number above 0", "'-1'"),
    ("fit_embedding", "lr=-1e-3", "'auto' or a number above 0", "'-1e-3'"),
    ("fit_embedding", "lr=nan", "'auto' or a number above 0", "'nan'"),
    ("fit_embedding", "lr=inf", "'auto' or a number above 0", "'inf'"),
    ("fit_embedding", "lr=0", "'auto' or a number above 0", "'0'"),
    ("fit_embedding", "lr=", "'auto' or a number above 0", "''"),
    ("fit_embedding", "lr=0.1 optimizer=exact", "'auto' with optimizer=exact", "0.1"),
    ("fit_embedding", "dim=0", "a whole number from 1 to 100000", "'0'"),
    ("fit_embedding", "objective=dens", "one of factored, dense", "'dens'; did you mean 'dense'?"),
    ("fit_embedding", "init_scale=0", "a number above 0", "'0'"),
    ("fit_embedding", "register=perhaps", "true or false", "'perhaps'"),
    ("fit_embedding", "reference=", "true or false", "''"),
    ("fit_embedding", "model_name=a/b", "a name without '/', ':', '?' and", "'a/b'"),
    ("fit_embedding", "model_name=a?b", "a name without '/', ':', '?' and", "'a?b'"),
    ("fit_embedding", "model_name= ", "a name without '/', ':', '?' and", "' '"),
    ("fit_embedding", "promote=yes", "one of if_better, always, never", "'yes'"),
    ("fit_embedding", "model_name=a", "register=true with it", "register=false, where it has no"),
    ("fit_embedding", "promote_by=ndcg", "register=true with it", "add register=true, or leave"),
    ("finetune", "promote=never", "register=true with it", "got register=false"),
    ("extract_features", "model_name=a register=no", "register=true with it", "register=false"),
    ("compare_optimizers", "gpus_per_fit=1", "launcher=ray with it", "got launcher=local"),
    ("fit_embedding", "processes=0", "a whole number from 1 to 1024", "'0'"),
    ("fit_embedding", "processes=2 optimizer=exact", "1 with optimizer=exact", "got 2"),
    ("fit_embedding", "processes=2 objective=dense", "1 with objective=dense", "got 2"),
    ("finetune", "processes=many", "a whole number from 1 to 1024", "'many'"),
    ("extract_features", "processes=2.5", "a whole number from 1 to 1024", "'2.5'"),
    ("recommend", "title= ", "a movie's title", "got '"),
    ("recommend", "title=--", "a value", "'--'"),
    ("recommend", "model=", "a model's URI", "''"),
    ("recommend", "k=0", "a whole number from 1 to 1000", "'0'"),
    ("recommend", "k=1001", "a whole number from 1 to 1000", "'1001'"),
    ("recommend", "score=dto", "one of dot, cosine", "'dto'; did you mean 'dot'?"),
    ("recommend", "include_self=2", "true or false", "'2'"),
    ("clean_runs", "hours=-1", "a number from 0 up", "'-1'"),
    ("clean_runs", "hours=inf", "a number from 0 up", "'inf'"),
    ("clean_runs", "dry_run=maybe", "true or false", "'maybe'"),
    ("promote", "version=0 reason=x", "a version's number, challenger or previous", "'0'"),
    ("promote", "version=1.5 reason=x", "a version's number, challenger or previous", "'1.5'"),
    ("promote", "version=-1 reason=x", "a version's number, challenger or previous", "'-1'"),
    ("promote", "version=v2 reason=x", "a version's number, challenger or previous", "'v2'"),
    ("promote", "version= reason=x", "a version's number, challenger or previous", "''"),
    ("promote", "version=champion reason=x", "challenger or previous", "'champion'"),
    ("promote", "reason= version=1", "a reason, in words", "''"),
    ("promote", "model_name=a:b version=1 reason=x", "a name without '/', ':', '?' and", "'a:b'"),
]
# Run as processes, one of each kind: a parser's type, a data set's check, conflicting options.
BAD_PROCESSES = [
    ("main", "lr=0.1 optimizer=exact", "lr: expected 'auto'"),
    ("build_matrix", "like_rule=threshold:9", "like_rule: expected threshold:<0.5 to 5 stars>"),
    ("fit_embedding", "ratings=nowhere", "ratings: expected one of"),
    ("recommend", "k=0", "k: expected a whole number from 1 to 1000, got '0'"),
]


def as_words(arguments):
    """`model_name=a b=1` -> --model-name a --b 1, as MLproject's command passes them."""
    pairs = re.split(r" (?=\w+=)", arguments)
    return [
        word
        for name, _, value in (pair.partition("=") for pair in pairs)
        for word in ("--" + name.replace("_", "-"), value)
    ]


@pytest.fixture
def no_heavy_modules(monkeypatch):
    """Make every heavy import an ImportError, so an argument that is refused too late fails."""
    for name in (*HEAVY, "embedlab.tracking.lifecycle", "embedlab.cli.console"):
        monkeypatch.setitem(sys.modules, name, None)


def start(name, *arguments):
    """Run an entry point. Returns exit code, stdout, lines of stderr, and imported modules."""
    environment = os.environ | {"COLUMNS": "10000"}
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"entrypoints.{name}", *arguments],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = process.stderr.splitlines()
    modules = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    said = [line for line in lines if not line.startswith("import time:")]
    return process.returncode, process.stdout, said, modules


def assert_light(modules):
    assert "embedlab.cli.parser" in modules
    assert {module for module in modules if module.partition(".")[0] in HEAVY} == set()


@pytest.mark.parametrize(("name", "arguments", "expected", "got"), BAD)
def test_a_bad_value_is_refused_before_any_work(no_heavy_modules, name, arguments, expected, got):
    main = importlib.import_module(f"entrypoints.{name}").main
    with pytest.raises(EmbedlabError) as refused:
        main(as_words(arguments))
    sentence = str(refused.value)
    parameter = arguments.partition("=")[0]
    assert re.match(rf"{parameter}(=|: expected )", sentence)
    assert expected in sentence
    assert got in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("name", ENTRY_POINTS)
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--zzzz", "9"], "there is no parameter zzzz"),
        (["--zzzz=9", "--yy-yy", "-1"], "there is no parameter zzzz; there is no parameter yy_yy"),
        (["stray"], "expected --name value, got 'stray'"),
        (["-k", "3"], "expected --name value, got '-k 3'"),
        (["--"], "expected --name value, got '--'"),
    ],
)
def test_an_unknown_parameter_or_word_is_named(no_heavy_modules, name, arguments, sentence):
    """It is named before missing parameters, one of which it may be misspelt for."""
    entry_point = importlib.import_module(f"entrypoints.{name}")
    with pytest.raises(OptionError) as refused:
        entry_point.main(arguments)
    assert str(refused.value) == f"{sentence} (see `python -m entrypoints.{name} --help`)"


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("fit_embedding", "--optimiser adam", "optimiser: did you mean optimizer?"),
        ("fit_embedding", "--optimiser=adam --dim 3", "optimiser: did you mean optimizer?"),
        ("finetune", "--weight-decy 0", "weight_decy: did you mean weight_decay?"),
        ("recommend", "--Title x", "Title: did you mean title?"),
        ("recommend", "--tit x", "tit: did you mean title?"),
        ("promote", "--reson x --version 1", "reson: did you mean reason?"),
    ],
)
def test_the_parameter_that_may_be_meant_is_named(name, arguments, sentence):
    parser = importlib.import_module(f"entrypoints.{name}").build_parser()
    with pytest.raises(OptionError, match=f"^there is no parameter {re.escape(sentence)} \\(see"):
        parser.parse_args(arguments.split())


@pytest.mark.parametrize(
    ("entry_point", "name", "value", "sentence"),
    [
        ("extract_features", "optimizer", "lion", "expected one of sgd, adam, adamw, lbfgs"),
        ("extract_features", "lr", "-1", "expected 'auto' or a number above 0"),
        ("extract_features", "weight_decay", "-1", "expected a number from 0 up"),
        ("extract_features", "epochs", "0", "expected a whole number from 1 up"),
        ("extract_features", "batch_size", "0", "expected a whole number from 1 up"),
        ("finetune", "recipe", "slow", "expected one of auto, fast, notebook"),
        ("finetune", "optimizer", "lion", "expected 'auto' or one of sgd, adam"),
        ("finetune", "schedule", "cosine", "expected 'auto' or one of one_cycle"),
        ("finetune", "augment", "mixup", "expected 'auto' or one of none"),
        ("finetune", "freeze", "all", "expected 'auto' or one of none, stem"),
        ("finetune", "precision", "float8", "expected one of auto, float32"),
        ("finetune", "lr", "0", "expected 'auto' or a number above 0"),
        ("finetune", "epochs", "0", "expected 'auto' or a whole number from 1"),
        ("finetune", "momentum", "1.0", "expected 'auto' or a number from 0 to below 1"),
        ("finetune", "label_smoothing", "1.0", "expected 'auto' or a number from 0 to below"),
        ("finetune", "ema", "-0.1", "expected 'auto' or a number from 0 to below 1"),
        ("finetune", "weight_decay", "-1", "expected 'auto' or a number from 0 up"),
        ("finetune", "resolution", "16", "expected 'auto' or a whole number from 32 to 1024"),
        ("finetune", "resolution", "64,2000", "expected 'auto' or a whole number from 32 to 1024"),
    ],
)
def test_a_value_out_of_range_is_refused(entry_point, name, value, sentence):
    parser = importlib.import_module(f"entrypoints.{entry_point}").build_parser()
    with pytest.raises(OptionError, match=f"^{name}: {sentence}"):
        parser.parse_args([f"--{name.replace('_', '-')}", value])


def test_a_parameter_may_be_spelt_as_in_mlproject():
    parser = importlib.import_module("entrypoints.fit_embedding").build_parser()
    args = parser.parse_args(["--like_rule", "user_median", "--init_scale=2"])
    assert (args.like_rule, args.init_scale) == ("user_median", 2)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_a_value_that_is_not_utf_8_is_named_by_its_parameter(no_heavy_modules, name):
    """Python turns the bytes of such a value into surrogates, which no store accepts."""
    main = importlib.import_module(f"entrypoints.{name}").main
    for action in importlib.import_module(f"entrypoints.{name}").build_parser().parameters.values():
        value, flag = os.fsdecode(b"caf\xe9"), action.option_strings[0]
        for arguments in ([flag, value], [f"{flag}={value}"]):
            with pytest.raises(OptionError) as refused:
                main(arguments)
            sentence = f"{action.dest}: expected text in UTF-8, got 'caf\\udce9' (see "
            assert str(refused.value).startswith(sentence)


def test_a_flag_without_its_value_is_named():
    parser = importlib.import_module("entrypoints.recommend").build_parser()
    for arguments in (
        ["--title"],
        ["--title", "--score", "dot"],
        ["--title", "--include-self", "true"],
        ["--title", "--include_self", "true"],  # as in MLproject
    ):
        with pytest.raises(OptionError, match=r"^title: expected one argument"):
            parser.parse_args(arguments)


def test_what_must_be_given_is_named():
    parser = importlib.import_module("entrypoints.promote").build_parser()
    with pytest.raises(OptionError, match=r"^expected a value for version, reason \(see"):
        parser.parse_args([])


@pytest.mark.parametrize("title", ["-30- (1959)", "-h", "-1", "--help", "--k=3"])
def test_a_value_may_start_with_a_dash(title):
    parser = importlib.import_module("entrypoints.recommend").build_parser()
    args = parser.parse_args(["--title", title, "--k", "5"])
    assert (args.title, args.k) == (title, 5)


@pytest.mark.parametrize(("name", "arguments", "start_of_sentence"), BAD_PROCESSES)
def test_a_refused_process_says_one_sentence_and_imports_nothing_heavy(
    name, arguments, start_of_sentence
):
    code, stdout, said, modules = start(name, *as_words(arguments))
    assert (code, stdout, len(said)) == (1, "", 1), said
    assert said[0].startswith(f"embedlab: {start_of_sentence}")
    assert_light(modules)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_help_lists_every_parameter_and_imports_nothing_heavy(name):
    code, stdout, said, modules = start(name, "--help")
    assert (code, said) == (0, [])
    assert_light(modules)
    parser = importlib.import_module(f"entrypoints.{name}").build_parser()
    shown = " ".join(stdout.split())
    assert parser.description in shown
    for action in parser.parameters.values():
        default = str(action.default).lower() if action.default in (True, False) else action.default
        about, _, note = action.help.rpartition(" (")
        assert len(about) > 5
        if action.required:
            assert note == "required)"
        else:
            assert note == f"default: {'none' if default == '' else default})"
        assert f"{action.option_strings[0]} {action.metavar} {action.help}" in shown


def test_processes_are_as_many_as_torchrun_has_started(monkeypatch):
    parse = importlib.import_module("entrypoints.finetune").build_parser().parse_args
    assert (parse([]).processes, parse(["--processes", "3"]).processes) == (1, 3)
    monkeypatch.setenv("WORLD_SIZE", "4")  # set by a program other than torchrun
    assert parse([]).processes == 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    assert (parse([]).processes, parse(["--processes", "4"]).processes) == (4, 4)
    with pytest.raises(OptionError, match="processes: expected 1 or 4, as many as torchrun has"):
        parse(["--processes", "3"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OptionError("k: no"), 1, "embedlab: k: no\n"),
        (DataError("ratings: no"), 1, "embedlab: ratings: no\n"),
        (
            KeyboardInterrupt(),
            EXIT_INTERRUPTED,
            "embedlab: stopped by Ctrl-C; the run keeps what it had logged.\n",
        ),
    ],
)
def test_an_expected_end_is_a_line_and_an_exit_code(capsys, error, code, line):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    assert ended.value.code == code
    assert capsys.readouterr() == ("", line)


def test_a_bug_keeps_its_traceback():
    def main(argv):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_main(main)


def test_a_full_gpu_is_a_line_that_says_what_to_try(capsys):
    import torch

    def main(argv):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore on this.")

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    assert ended.value.code == 1
    out, line = capsys.readouterr()
    assert out == "" and line.count("\n") == 1
    assert line.startswith("embedlab: the GPU has too little memory (CUDA out of memory. Tried to")
    assert "smaller resolution or batch_size" in line and "More on this" not in line


def test_the_end_of_a_process_collects_no_garbage():
    """With torch and MLflow imported, that took a second."""
    code = """
from embedlab.cli.parser import run_main

class Reporter:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("collected")

run_main(lambda argv: Reporter())
"""
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_closed_pipe_gives_no_traceback():
    """`python -m entrypoints.x | head -1`"""
    code = (
        "from embedlab.cli.parser import run_main\n"
        "run_main(lambda argv: [print('a line', flush=True) for _ in range(100_000)])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT / "src",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    timer = threading.Timer(60, process.kill)
    timer.start()
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
    timer.cancel()
