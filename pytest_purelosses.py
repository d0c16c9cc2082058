"""The pytest fixture `check_loss`, there wherever purelosses is installed.

It lies outside the package, because pytest loads it at every start and importing the package
imports torch.
"""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def check_loss() -> Callable[..., Any]:
    """`check_loss(loss, *sample, kind=..., level=...)` fails the test with the doctor's report."""
    from purelosses.doctor import check_loss

    return check_loss
