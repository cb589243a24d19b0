# SPDX-License-Identifier: Apache-2.0
"""What has been taken for an end of data by one server or another, and is none (CVE-2023-51764 and its family)."""

ENDS = [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\n.\r", b"\r.\n", b"\n\r.\r\n", b"\r\n\x00.\r\n",
    b"\r\n.\x00\r\n", b"\x00\r\n.\n\x00", b"\r\r\n.\n", b"\n\n.\n\n", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\n .\r\n",
    b"\r\n. \r\n", b"\r\n..\r\n", b"\r\n.\t\r\n", b"\x0b.\x0b", b"\x0c.\x0c", b"\xc2\x85.\xc2\x85", b"\x85.\x85",
    b"\xe2\x80\xa8.\xe2\x80\xa8", b"\r\n\xef\xbc\x8e\r\n", b"\n.\n\r\n", b"\r\n\r.\r\n", b"\r\n.\x0b\r\n", b"\x00.\x00",
    b"\r\n..\r\n..\r\n", b"\n.\n\n.\n",
]  # fmt: skip


def has_bare(content: bytes) -> bool:
    """True if a CR or an LF stands alone."""
    rest = content.replace(b"\r\n", b"")
    return b"\r" in rest or b"\n" in rest


def unstuffed(raw: bytes) -> bytes:
    """What octets behind DATA mean (RFC 5321 §4.5.2), line by line."""
    return b"\r\n".join(line.removeprefix(b".") for line in raw.split(b"\r\n"))
