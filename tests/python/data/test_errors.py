from __future__ import annotations

import pytest

from trajmill.data import DatasetError, DatasetWarning
from trajmill.data.errors import refuse, refusing, warn_about


def test_refusals_and_warnings_begin_with_the_name_said_last() -> None:
    with refusing("outer.hdf5"):
        with pytest.raises(DatasetError, match=r"^inner\.hdf5: fault; remedy$"), refusing("inner.hdf5"):
            raise refuse("fault", "remedy")
        with pytest.warns(DatasetWarning, match=r"^outer\.hdf5: oddity$"):
            warn_about("oddity")
    assert str(refuse("fault", "remedy")) == "fault; remedy"
