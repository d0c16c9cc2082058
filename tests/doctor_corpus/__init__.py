"""The examination paper of the loss doctor: losses as people write them, with what is wrong.

`DEFECTS` have one defect each, with its code and the line that carries a `# here`; `HEALTHY` are
right, though many of them do what defective ones do. The entries were written without looking at
the doctor, and are not to be changed to please it. tests/test_doctor_corpus.py proves, without the
doctor, that every entry is what it is said to be.
"""

from doctor_corpus import (  # noqa: F401  (importing registers)
    defective_code,
    defective_graph,
    defective_values,
    healthy,
)
from doctor_corpus.core import DEFECTS, HEALTHY, Entry

__all__ = ["DEFECTS", "HEALTHY", "Entry"]
