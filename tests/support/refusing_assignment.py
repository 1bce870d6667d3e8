"""`faust`, but that its assignor refuses every assignment that the group gives it."""

from typing import Any

from faust.assignor.partition_assignor import PartitionAssignor
from faust.cli.faust import cli


def refuse(_self: PartitionAssignor, _assignment: Any) -> None:
    """As Faust's own does with one that is made out to another address."""
    raise AssertionError("not mine")


if __name__ == "__main__":
    PartitionAssignor.on_assignment = refuse
    cli()
