# SPDX-License-Identifier: Apache-2.0
"""Stage 1, the world to us: sockets, SMTP sessions, octets that become a message."""
