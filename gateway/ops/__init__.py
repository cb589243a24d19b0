# SPDX-License-Identifier: Apache-2.0
"""Beside the stages: the people and machines that watch."""
