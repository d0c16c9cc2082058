"""Examine any loss with one batch, name what is wrong with it, and show the line.

```python
from purelosses import doctor

print(doctor.examine(my_loss, logits, target))
```
"""

from purelosses.doctor.codes import CODES, Code, Severity
from purelosses.doctor.examination import check_loss, examine
from purelosses.doctor.kinds import KINDS
from purelosses.doctor.report import Finding, LossError, Report

__all__ = [
    "CODES",
    "KINDS",
    "Code",
    "Finding",
    "LossError",
    "Report",
    "Severity",
    "check_loss",
    "examine",
]
