"""Options of a fit: what is out of range is refused before any run."""

import pytest

from embedlab.errors import OptionError
from entrypoints import fit_embedding


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "adm"], "optimizer: expected one of adam, .*exact; got 'adm'"),
        (["--objective", "sparse"], "objective: expected one of factored, dense; got 'sparse'"),
        (["--dim", "0"], "dim: expected a whole number from 1 to 100000, got '0'"),
        (["--epochs", "-1"], "epochs: expected a whole number from 1 up, got '-1'"),
        (["--init-scale", "0.0"], "init_scale: expected a number above 0, got '0.0'"),
        (["--lr", "-0.1"], "lr: expected 'auto' or a number above 0, got '-0.1'"),
        (["--optimizer", "exact", "--lr", "0.1"], "lr: expected 'auto' with optimizer=exact"),
    ],
)
def test_options_out_of_range_are_refused_before_any_run(arguments, message):
    with pytest.raises(OptionError, match=message):
        fit_embedding.main(arguments)
