# SPDX-License-Identifier: Apache-2.0
"""Host and port, whether the port must be written or has a default."""

import pytest

from gateway.mail.hostport import split_host_port


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("mx.example:587", ("mx.example", 587)),
        ("[2001:db8::1]:25", ("[2001:db8::1]", 25)),
        ("*:1", ("*", 1)),
        (":25", ("", 25)),
        ("h:65535", ("h", 65535)),
    ],
)
def test_a_port_that_is_written_is_read(text: str, pair: tuple[str, int]) -> None:
    assert split_host_port(text) == split_host_port(text, 7) == pair


def test_a_port_that_is_missing_is_the_default_or_a_fault() -> None:
    assert split_host_port("h", 25) == ("h", 25)
    assert split_host_port("[::1]", 0) == ("[::1]", 0)
    with pytest.raises(ValueError, match="no port from 1 to 65535"):
        split_host_port("h")


def test_zero_is_a_port_only_where_that_means_any() -> None:
    assert split_host_port("h:0", lowest=0) == ("h", 0)
    with pytest.raises(ValueError, match="from 1 to 65535"):
        split_host_port("h:0")


@pytest.mark.parametrize(
    "text", ["::1", "::1:25", "[::1", "::1]:25", "[::1]25", "h:", "h:x", "h:65536", "h:123456", "h:²", "h:1\n"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        split_host_port(text, 25)
