# SPDX-License-Identifier: Apache-2.0
"""Stage 2, shall we take it? One file a filter; its name is the configuration section, the metric label and the page."""
