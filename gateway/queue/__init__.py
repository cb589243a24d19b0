# SPDX-License-Identifier: Apache-2.0
"""Stage 3, what we have promised to deliver: durable envelope, content, state and schedule."""
