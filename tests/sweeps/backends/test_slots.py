"""Slot arithmetic by table."""

import pytest

from sweeps.backends.slots import Demand, Node, fitting, num_slots
from sweeps.errors import ResourceError


@pytest.mark.parametrize(
    ("node", "demand", "expected"),
    [
        (Node(2), Demand(1), 2),
        (Node(2), Demand(0.5), 4),
        (Node(1), Demand(2), 0),
        (Node(16, 8), Demand(2, 2), 4),
        (Node(16, 8), Demand(4, 2), 4),
        (Node(6, 8), Demand(2, 2), 3),
        (Node(16, 1), Demand(1, 0.5), 2),
        (Node(16, 2), Demand(1, 0.4), 4),  # Two a GPU: a share never spans two GPUs.
        (Node(16, 1), Demand(1, 2), 0),
        (Node(0.3), Demand(0.1), 3),  # 0.3 / 0.1 is 2.999... in floats.
    ],
)
def test_fitting(node, demand, expected):
    assert fitting(node, demand) == expected


def test_all_gpus_of_a_trajectory_lie_on_one_node():
    nodes = [Node(8, 3), Node(8, 3)]
    assert num_slots(nodes, Demand(1, 2), "auto") == 2
    with pytest.raises(ResourceError, match=r"asks for 1 CPU and 4 GPUs on one node.*1 GPUs short"):
        num_slots(nodes, Demand(1, 4), "auto")


def test_too_many_workers_are_refused_with_the_figures():
    with pytest.raises(ResourceError, match=r"workers is 5, but must be at most 4: each takes 2 CPUs and 2 GPUs"):
        num_slots([Node(16, 8)], Demand(2, 2), 5)


def test_fewer_workers_than_fit_are_as_asked():
    assert num_slots([Node(16, 8)], Demand(2, 2), 3) == 3
