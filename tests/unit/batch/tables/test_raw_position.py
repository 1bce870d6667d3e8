"""Which records `raw` wants that its topics do not have, and the line that names them."""

import pytest

from batch.tables.raw_position import Lost, find_lost, refusal

A0, A1, B0 = ("a", 0), ("a", 1), ("b", 0)


@pytest.mark.parametrize("wanted", [5, 7, 9])
def test_nothing_is_lost_where_the_topic_has_the_wanted_offset(wanted: int) -> None:
    assert find_lost({A0: wanted}, {A0: 9}, {A0: (5, 9), A1: (3, 4)}) == []
    assert find_lost({}, {}, {A0: (5, 9)}) == []


@pytest.mark.parametrize(
    ("wanted", "planned", "expected", "text"),
    [
        (4, {}, Lost("a", 0, 4, 5, 9), "wanted offset 4, available 5 to 9: 1 records were deleted"),
        (10, {}, Lost("a", 0, 10, 5, 9), "wanted offset 10, available 5 to 9: the topic was recreated"),
        (7, {A0: 12}, Lost("a", 0, 7, 5, 9, 12), "wanted offset 12, available 5 to 9: the topic was recreated"),
    ],
)
def test_a_position_outside_its_topic_is_lost(
    wanted: int, planned: dict[tuple[str, int], int], expected: Lost, text: str
) -> None:
    (lost,) = find_lost({A0: wanted}, planned, {A0: (5, 9)})
    assert lost == expected
    assert lost.text == f"a, partition 0: {text}"
    assert lost.as_range(0).to_offset == (5 if lost.is_deleted else None)


def test_a_partition_that_does_not_exist_any_more_is_lost() -> None:
    (lost,) = find_lost({A1: 3, B0: 1}, {}, {B0: (0, 1)})
    assert lost.text == "a, partition 1: wanted offset 3, but there is no such partition"
    assert lost.as_range(0).to_offset is None


def test_the_refusal_is_one_line_with_a_bounded_number_of_partitions() -> None:
    line = refusal(find_lost(dict.fromkeys([("a", n) for n in range(30)], 1), {}, {}))
    assert "\n" not in line
    assert "(and 26 more partitions)" in line
    assert line.endswith("python -m batch raw --from-earliest-available")
