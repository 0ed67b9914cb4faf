"""The cases, once for all tests of a file."""

from __future__ import annotations

import pytest
from trials import Faults


@pytest.fixture(scope="session")
def faults(server, tiny_folder, tmp_path_factory):
    return Faults(server, tiny_folder, tmp_path_factory.mktemp("faults"))
