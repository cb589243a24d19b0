# SPDX-License-Identifier: Apache-2.0
"""One gateway for this whole folder; after each test its log must not tell of any trouble."""

from collections.abc import Iterator

import pytest

from tests.interop.gateway import HOSTNAME, PASSWORD, USER, Site
from tests.support.postfixclient import PostfixClient
from tests.support.world import World


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with World() as world:
        site = Site(tmp_path_factory.mktemp("site"), world)
        site.add_user()
        with site.daemon:
            yield site
            assert site.daemon.stop() == 0
            assert not [row for row in site.daemon.log() if row["event"] == "trouble"]


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    """The gateway. A test that wants a refusal says so in `refusals`; else each one is a failure."""
    running.begin()
    yield running
    running.wait_records("rejected", running.refusals)
    assert len(running.records("rejected")) == running.refusals, running.records("rejected")
    assert not running.records("trouble")


@pytest.fixture(scope="package")
def postfix_client(running: Site) -> Iterator[PostfixClient]:
    """A Postfix that sends to the gateway, by each of its listeners."""
    login = f"{USER}:{PASSWORD}"
    with PostfixClient(running.ports, HOSTNAME, running.certificate.authority, login=login) as instance:
        yield instance
