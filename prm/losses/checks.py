"""Checks of options and shapes that losses of every kind share."""

from __future__ import annotations

from torch import Tensor

from prm.errors import ConfigError, DataError


def check_smoothing(label_smoothing: float) -> float:
    """Return a label smoothing.

    Raises:
        ConfigError: It is not in [0, 1).
    """
    if not 0 <= label_smoothing < 1:
        raise ConfigError(
            "label_smoothing is wrong", expected="a number in [0, 1)", got=label_smoothing
        )
    return label_smoothing


def check_class_weight(name: str, weight: object) -> None:
    """Check how much a class counts: a number above 0, or `balanced`.

    Raises:
        ConfigError: It is neither.
    """
    is_positive = isinstance(weight, int | float) and 0 < weight < float("inf")
    if weight != "balanced" and not is_positive:
        raise ConfigError(f"{name} is wrong", expected="a number above 0 or 'balanced'", got=weight)


def class_totals(
    option: str, labels: Tensor, what: str, classes: tuple[str, str]
) -> tuple[float, float]:
    """Return how many labels say yes, and how many no; soft ones count in part for both.

    Args:
        option: The option that is `balanced`, for the error.
        labels: Labels in [0, 1], NaN where there is none.
        what: What the labels are, for the error.
        classes: What yes and no are, for the error.

    Raises:
        ConfigError: One of the classes does not occur.
    """
    known = labels[~labels.isnan()].double()
    yes, no = known.sum().item(), (1 - known).sum().item()
    if yes == 0 or no == 0:
        raise ConfigError(
            f"{option} 'balanced' needs both classes in the training {what}",
            got=f"{yes:g} {classes[0]}, {no:g} {classes[1]}",
        )
    return yes, no


def check_columns(reader: object, columns: Tensor, width: int) -> None:
    """Check that the output of a head is `[read, column]` with as many columns as are read.

    Raises:
        ConfigError: It is not.
    """
    if columns.ndim != 2 or columns.shape[1] != width:
        name, plural = type(reader).__name__, "" if width == 1 else "s"
        raise ConfigError(f"{name} reads {width} column{plural}", got=tuple(columns.shape))


def check_sign(sign: int) -> None:
    """Check that a direction is 1 or -1.

    Raises:
        ConfigError: It is not.
    """
    if sign not in (1, -1):
        raise ConfigError("sign is wrong", expected="1 or -1", got=sign)


def check_shapes(*tensors: Tensor) -> None:
    """Check that vectors have one length, so that none is broadcast to a matrix.

    Raises:
        ConfigError: They do not, or one is no vector.
    """
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1:
        raise ConfigError("shapes are wrong", expected="one dimension, equal lengths", got=shapes)


def check_labels(name: str, values: Tensor, right: Tensor, expected: str) -> None:
    """Check that all values that are not NaN are right.

    Raises:
        DataError: One of them is not; it is named.
    """
    wrong = values[~right & ~values.isnan()]
    if wrong.numel():
        raise DataError(f"a {name} is out of range", expected=expected, got=wrong[0].item())
