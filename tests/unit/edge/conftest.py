# SPDX-License-Identifier: Apache-2.0
"""What several tests of the edge need: the two ends of TLS."""

import pytest

from tests.support.edges import Sides


@pytest.fixture(scope="session")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    return Sides.made(tmp_path_factory.mktemp("tls"))
