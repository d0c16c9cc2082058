"""Try the built packages where the checkout is not.

    python tools/try_wheel.py dist .venv

makes a new environment in a temporary folder, installs the wheel of `dist` into it, lets it see
the packages of `.venv` (torch is large), and runs what a user would run first. The checkout itself,
which `.venv` knows as an editable install, stays out of sight.
"""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

FIRST_STEPS = """
import importlib.metadata
import pathlib
import pkgutil
import sys

import torch

import purelosses
import purelosses.nn
from purelosses.registry import LOSSES

home = pathlib.Path(purelosses.__file__).parent
assert home.is_relative_to(sys.prefix), f"imported {home}, not the wheel"
assert (home / "py.typed").is_file()
for found in pkgutil.walk_packages(purelosses.__path__, "purelosses."):
    importlib.import_module(found.name)

distribution = importlib.metadata.distribution("purelosses")
data = distribution.metadata
assert pathlib.Path(distribution.locate_file("purelosses")) == home
for field in ("Name", "Version", "Summary", "License-Expression", "Requires-Python", "Keywords"):
    assert data[field], f"the metadata lacks {field}"
assert data["Description-Content-Type"] == "text/markdown" and data.get_payload()
assert any(name.startswith("torch>=") for name in distribution.requires)
for script in distribution.entry_points:
    script.load()

logits, mask = torch.tensor([2.0, 1.0, -2.0], requires_grad=True), torch.tensor([1, 1, 0])
loss = purelosses.nn.DiceBCELoss()(logits, mask)
loss.backward()
assert torch.allclose(loss, purelosses.dice_bce_loss(logits, mask)) and logits.grad.abs().sum() > 0
print(f"purelosses {data['Version']}: wheel works, {len(LOSSES)} losses")
"""


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def inspect(wheel: Path, sdist: Path) -> None:
    """The packages hold what they should, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    strangers = {n.split("/")[0] for n in names if n.startswith(("tests/", "docs/", "tools/"))}
    assert not strangers, f"the wheel holds {strangers}"
    assert any(n.endswith("licenses/LICENSE") for n in names), "the wheel lacks the licence"
    with tarfile.open(sdist) as archive:
        inside = {n.partition("/")[2] for n in archive.getnames()}
    for name in ("README.md", "LICENSE", "pyproject.toml", "purelosses/py.typed", "tests"):
        assert any(n == name or n.startswith(f"{name}/") for n in inside), f"sdist lacks {name}"


def main() -> None:
    dist, packages = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    wheel = only(dist, "*.whl")
    inspect(wheel, only(dist, "*.tar.gz"))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "new"
        venv.create(home, symlinks=True)
        python = home / "bin" / "python"
        site = only(home, "lib/python*/site-packages")
        pip: list[str | Path] = [packages / "bin" / "python", "-m", "pip", "--python", python]
        subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
        # A plain path: the .pth files inside that folder, as of editable installs, are not read.
        others = only(packages, "lib/python*/site-packages")
        (site / "others.pth").write_text(f"{others}\n")
        subprocess.run([python, "-I", "-W", "error", "-c", FIRST_STEPS], check=True, cwd=folder)


if __name__ == "__main__":
    main()
