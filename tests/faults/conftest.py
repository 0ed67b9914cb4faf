"""The forking server and the cases, once for all tests of a file."""

from __future__ import annotations

import pytest
from harness import Server
from trials import Faults


@pytest.fixture(scope="session")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def faults(server, tiny_folder, tmp_path_factory):
    return Faults(server, tiny_folder, tmp_path_factory.mktemp("faults"))
