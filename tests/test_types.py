"""Type checkers catch a wrong option of a module, and know that calling it returns a tensor."""

from pathlib import Path

from mypy import api

PROGRAM = """
import torch
from purelosses.nn import DiceLoss, HuberLoss, UncertaintyWeightedLoss

x = torch.rand(3)
reveal_type(DiceLoss(smooth=0.5)(x, x))
reveal_type(UncertaintyWeightedLoss(2)([x.mean(), x.mean()]))
DiceLoss(smoth=0.5)
HuberLoss(reduction="avarage")
HuberLoss()(x)
"""


def test_mypy_sees_options_and_results(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    report, _, _ = api.run(["--strict", "--no-error-summary", str(program)])
    lines = [line.partition(": ")[2] for line in report.splitlines()]
    assert lines[0] == 'note: Revealed type is "torch._tensor.Tensor"'
    assert lines[1].startswith('note: Revealed type is "tuple[torch._tensor.Tensor, ')
    assert lines[2].startswith('error: Unexpected keyword argument "smoth" for "DiceLoss"')
    wrong = [line for line in lines if line.startswith("error: ")]
    assert "'avarage'" in wrong[1]
    assert "reduction" in wrong[1]
    assert wrong[2].startswith("error: Too few arguments")
    assert len(wrong) == 3
