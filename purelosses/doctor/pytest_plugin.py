"""The fixture `check_loss`, for a conftest.py that says so.

pytest_plugins = ["purelosses.doctor.pytest_plugin"]
"""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def check_loss() -> Callable[..., Any]:
    """`check_loss(loss, *sample, kind=..., level=...)` fails the test with the doctor's report."""
    from purelosses.doctor import check_loss

    return check_loss
