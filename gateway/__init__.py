# SPDX-License-Identifier: Apache-2.0
"""An SMTP relay daemon: listen, judge, keep, deliver.

The folders are the stages of a message's way: `edge` (the world to us), `filters` (shall we take it?),
`queue` (what we have promised), `delivery` (us to the world). `mail`, `auth` and `infra` are the floors
below them, `ports` the protocols between them, `app` the one place where they are put together.
"""

__version__ = "0.1.0"
