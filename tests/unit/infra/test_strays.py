# SPDX-License-Identifier: Apache-2.0
"""Libraries that log in their own way must not spoil the log."""

import logging
from collections.abc import Iterator

import pytest

from gateway.infra.strays import DETAIL_MAX, Strays
from gateway.mail.events import Event, Trouble


class Kept:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def logger(kept: Kept) -> Iterator[logging.Logger]:
    logger = logging.getLogger("some.library")
    handler = Strays(kept)
    logger.addHandler(handler)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)
    logger.propagate = True


def told(kept: Kept) -> str:
    (event,) = kept.events
    assert isinstance(event, Trouble)
    assert event.area == "some.library"
    assert "\n" not in event.detail
    return event.detail


def test_a_traceback_is_one_line(kept: Kept, logger: logging.Logger) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logger.exception("a request failed")
    assert told(kept).startswith("a request failed: ValueError: first second (")


def test_what_a_client_sent_is_cut(kept: Kept, logger: logging.Logger) -> None:
    logger.warning("got %s", "x" * 100_000)
    assert len(told(kept)) == DETAIL_MAX


def test_a_record_that_cannot_be_formatted_is_told_all_the_same(kept: Kept) -> None:
    Strays(kept).handle(logging.LogRecord("some.library", logging.WARNING, "", 0, "%d", ("no number",), None))
    assert told(kept).startswith("unreadable record")


def test_chatter_is_left_out(kept: Kept, logger: logging.Logger) -> None:
    logger.info("hello")
    assert not kept.events
