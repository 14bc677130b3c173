"""A program with a fault: its line is shown, not the way there."""

from optgen import define


def rate(steps: int) -> float:
    return 1 / steps


define(name="Rule", summary="A rule.", extends="sgd", hyper={"lr": {"default": rate(0)}})
