"""placeholder until the checkpoints are there"""


def demo() -> None:
    """The whole loop on embedded defaults."""
