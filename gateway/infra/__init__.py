# SPDX-License-Identifier: Apache-2.0
"""Floor 1: doors to the outside. Each third-party library is imported behind exactly one of them."""
