# SPDX-License-Identifier: Apache-2.0
"""`python -m gateway` is the command `gateway`."""

from gateway.cli.main import main

if __name__ == "__main__":
    main()
