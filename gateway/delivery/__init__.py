# SPDX-License-Identifier: Apache-2.0
"""Stage 4, us to the world: next hops, transports, outcomes, bounces."""
