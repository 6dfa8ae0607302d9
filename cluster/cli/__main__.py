"""`python -m cluster.cli` is `evalservice`."""

from cluster.cli import main

main()
