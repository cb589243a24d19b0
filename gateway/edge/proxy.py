# SPDX-License-Identifier: Apache-2.0
"""The header of the PROXY protocol, versions 1 and 2: for whom does a balancer speak?

    v1      = "PROXY " ( "UNKNOWN" *any / ("TCP4" / "TCP6") SP source SP destination SP port SP port ) CRLF   ; ≤ 107 octets
    v2      = signature %x20-21 family length16 addresses *TLV                                 ; version 2, LOCAL or PROXY
    TLV     = type8 length16 value

Promises: pure; a header that is not complete is not judged, so the result depends on the octets and not on how they were
cut; not an octet beyond the header is touched; 107 octets, or `V2_MAX`, are the most that are ever waited for.
Fails with: `ProxyFault`, as soon as the octets can no longer become a header.
Reference: "The PROXY protocol, Versions 1 & 2", haproxy.org, 2020, §2.1 and §2.2.
Not here: who must send one and how long we wait (`edge/arrival.py`).
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from gateway.mail.envelope import IP

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # of version 2; chosen so that no server of a text protocol goes on after it
V1_MAX = 107  # octets with CRLF (§2.1)
V2_MAX = 4096  # octets behind the first 16; addresses take at most 216, and the rest is TLVs that we do not ask for
_PREFIX = b"PROXY "
_FIXED = 16  # octets of v2 that are always there
_CRC32C = 0x03  # type of the TLV with the checksum (§2.2.4)

# port = "0" / %x31-39 *4DIGIT, at most 65535
_V1 = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f.:]{2,39}) ([0-9A-Fa-f.:]{2,39}) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})")
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?")

# family and transport of v2 → octets of both addresses and ports, of one address
_FAMILIES = {0x00: (0, 0), 0x11: (12, 4), 0x21: (36, 16), 0x31: (216, 0)}


class ProxyFault(ValueError):
    """These octets are no PROXY header."""


@dataclass(frozen=True, slots=True)
class Header:
    """`source` is the client that the balancer speaks for; None if it speaks for itself (`own`), or cannot say for whom."""

    length: int  # octets
    source: tuple[IP, int] | None = None
    own: bool = False


def read_header(octets: bytes) -> Header | None:
    """The header that `octets` begin with; None if more is needed. Raises ProxyFault."""
    if octets.startswith(_PREFIX):
        return _read_v1(octets)
    if octets.startswith(SIGNATURE):
        return _read_v2(octets)
    if _PREFIX.startswith(octets) or SIGNATURE.startswith(octets):
        return None
    raise ProxyFault("begins like neither version")


def _read_v1(octets: bytes) -> Header | None:
    end = octets.find(b"\r\n", 0, V1_MAX)
    if end < 0:
        if len(octets) >= V1_MAX:
            raise ProxyFault("no end of line")
        return None
    line = octets[:end]
    if _UNKNOWN.fullmatch(line):
        return Header(end + 2)
    found = _V1.fullmatch(line)
    if not found:
        raise ProxyFault("bad line")
    family, source, destination, port, other_port = (part.decode("ascii") for part in found.groups())
    ip, other = _address(source), _address(destination)
    if not int(family) == ip.version == other.version or int(port) > 65535 or int(other_port) > 65535:
        raise ProxyFault("bad address or port")
    return Header(end + 2, (_plain(ip), int(port)))


def _address(text: str) -> IP:
    try:
        return ip_address(text)
    except ValueError as err:
        raise ProxyFault("bad address") from err


def _read_v2(octets: bytes) -> Header | None:
    """The fixed part is judged octet by octet as it comes, the rest when it is whole."""
    kind, family = octets[12:13], octets[13:14]
    if kind and kind not in b"\x20\x21":
        raise ProxyFault("bad version or command")
    local = kind == b"\x20"
    if family and not local and family[0] not in _FAMILIES:
        raise ProxyFault("bad family or transport")
    if len(octets) < _FIXED:
        return None
    length = int.from_bytes(octets[14:16], "big")
    if length > V2_MAX:
        raise ProxyFault("too long")
    if not local and length < _FAMILIES[family[0]][0]:
        raise ProxyFault("too short for its addresses")
    if len(octets) < _FIXED + length:
        return None
    header = octets[: _FIXED + length]
    if local:  # §2.2: whatever else it says is not for us
        return Header(len(header), own=True)
    both, one = _FAMILIES[family[0]]
    _check_values(header, _FIXED + both)
    if not one:
        return Header(len(header))
    source, port = header[_FIXED : _FIXED + one], header[_FIXED + 2 * one : _FIXED + 2 * one + 2]
    ip: IP = IPv4Address(source) if one == 4 else IPv6Address(source)
    return Header(len(header), (_plain(ip), int.from_bytes(port, "big")))


def _check_values(header: bytes, at: int) -> None:
    """Go through the TLVs. None is of use to us, but a checksum must hold (§2.2.4)."""
    while at < len(header):
        start, length = at + 3, int.from_bytes(header[at + 1 : at + 3], "big")
        if start + length > len(header):
            raise ProxyFault("a value runs over the end")
        if header[at] == _CRC32C:
            blank = header[:start] + bytes(length) + header[start + length :]
            if length != 4 or crc32c(blank) != int.from_bytes(header[start : start + 4], "big"):
                raise ProxyFault("bad checksum")
        at = start + length


def _plain(ip: IP) -> IP:
    """One client, one name, whichever family it is written in."""
    return getattr(ip, "ipv4_mapped", None) or ip


def _table() -> tuple[int, ...]:
    """RFC 3720 §B.4: the polynomial of CRC32C, 0x1EDC6F41, reflected."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC = _table()


def crc32c(octets: bytes) -> int:
    """The checksum of RFC 3720 §12.1."""
    crc = 0xFFFFFFFF
    for octet in octets:
        crc = crc >> 8 ^ _CRC[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF
