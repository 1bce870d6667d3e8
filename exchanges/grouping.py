"""Split a request's values into groups, so that no URL and no message exceeds a limit. Pure."""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def split_by_size(items: Sequence[T], size: Callable[[T], int], room: int, most: int) -> list[list[T]]:
    """Consecutive groups of `items` that fit; an item that fits nowhere is a group of its own.

    Args:
        items: in order.
        size: bytes that an item needs, with its separator.
        room: bytes of a group.
        most: items of a group.
    """
    groups: list[list[T]] = []
    left = 0
    for item in items:
        needed = size(item)
        if not groups or needed > left or len(groups[-1]) == most:
            groups.append([])
            left = room
        groups[-1].append(item)
        left -= needed
    return groups
