# SPDX-License-Identifier: Apache-2.0
"""Floor 0: what mail is. Frozen values and pure functions; no I/O, no event loop, no clock, no configuration."""
