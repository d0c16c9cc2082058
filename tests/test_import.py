"""What importing costs: neither the compiler nor the parts that only tests and tools use."""

import subprocess
import sys

HEAVY = (
    "torch._dynamo",
    "torch._inductor",
    "matplotlib",
    "rich",
    "numpy.testing",
    "purelosses.registry",
    "purelosses.laws",
    "purelosses.nn",
)


def loaded_by(code: str) -> set[str]:
    """The heavy modules that are loaded after the code, but were not by its first line."""
    program = f"import sys, torch, optree; before = set(sys.modules); {code}; " + (
        "print(*(set(sys.modules) - before))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return {name for name in HEAVY if name in result.stdout.split()}


def test_importing_the_library_loads_nothing_heavy() -> None:
    assert loaded_by("import purelosses") == set()


def test_calling_a_loss_loads_nothing_heavy() -> None:
    call = "purelosses.dice_loss(torch.rand(3, 4), torch.ones(3, 4)).backward"
    assert loaded_by(f"import purelosses; {call}") == set()


def test_importing_the_modules_loads_only_them() -> None:
    assert loaded_by("import purelosses.nn") == {"purelosses.nn"}
