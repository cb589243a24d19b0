# SPDX-License-Identifier: Apache-2.0
"""The command `gateway`, one file a command group."""
