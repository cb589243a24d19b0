# SPDX-License-Identifier: Apache-2.0
"""Floor 1: mail authentication as libraries. They need a `ports.Resolver` and nothing else of the house."""
