"""What others call a loss, and what it is here: read from the tests that compare the two.

The source of a test is the list of what it compares, so nothing is said here that is not tested.
docs/coming-from.md shows all of it by library, tools/pages.py on the page of each loss its own.
"""

import ast
import copy
import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

import purelosses as pl
from tools.gen_pages import ROOT


class Row(NamedTuple):
    """One equality."""

    library: str
    theirs: str  # Markdown
    here: str
    test: str


# torch is at hand: both columns are evaluated and compared, in double precision.
TORCH = """
F.mse_loss(x, y)
mse_loss(x, y)
F.l1_loss(x, y)
l1_loss(x, y)
F.smooth_l1_loss(x, y, beta=0.5)
smooth_l1_loss(x, y, beta=0.5)
F.huber_loss(x, y, delta=0.5)
huber_loss(x, y, delta=0.5)
1 - F.cosine_similarity(x, y).mean()
cosine_distance_loss(x, y)
F.gaussian_nll_loss(x, y, log_var.exp())
gaussian_nll_loss(x, log_var, y)
F.poisson_nll_loss(x, counts)
poisson_nll_loss(x, counts)
F.binary_cross_entropy_with_logits(x, mask)
binary_cross_entropy_loss(x, mask)
F.binary_cross_entropy_with_logits(x, mask, weight=w)
binary_cross_entropy_loss(x, mask, weights=w[None])
F.binary_cross_entropy_with_logits(x, mask, pos_weight=w)
binary_cross_entropy_loss(x, mask, weights=torch.where(mask == 1, w, 1.0))
F.multilabel_soft_margin_loss(x, mask)
binary_cross_entropy_loss(x, mask)
F.soft_margin_loss(x, signs)
soft_margin_loss(x, signs)
F.cross_entropy(x, labels)
cross_entropy_loss(x, labels)
F.cross_entropy(x, p)
cross_entropy_loss(x, p)
F.cross_entropy(x, labels, label_smoothing=0.1)
cross_entropy_loss(x, labels, label_smoothing=0.1)
F.cross_entropy(x, holes, ignore_index=255)
cross_entropy_loss(x, holes, where=holes != 255)
F.cross_entropy(x, labels, weight=w)
cross_entropy_loss(x, labels, class_weights=w, reduction="weighted_mean")
F.cross_entropy(x, labels, weight=w, reduction="sum")
cross_entropy_loss(x, labels, class_weights=w, reduction="sum")
F.nll_loss(x.log_softmax(1), labels)
cross_entropy_loss(x.log_softmax(1), labels)
F.kl_div(x.log_softmax(1), p, reduction="batchmean")
kl_divergence_loss(x, p)
F.multi_margin_loss(x, labels)
multiclass_hinge_loss(x, labels, kind="weston_watkins") / 3
"""


def torch_pairs() -> Iterator[tuple[str, str]]:
    lines = TORCH.split("\n")[1:-1]
    return zip(lines[::2], lines[1::2], strict=True)


def torch_table() -> str:
    """The rows of torch with their value; fails if one does not agree."""
    generator = torch.Generator().manual_seed(0)

    def normal() -> torch.Tensor:
        return torch.randn(4, 3, generator=generator, dtype=torch.float64)

    mask = torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.float64)
    names = {"torch": torch, "F": F, **{name: getattr(pl, name) for name in pl.__all__}}
    names |= {
        "x": normal(),
        "y": normal(),
        "labels": torch.tensor([0, 2, 1, 1]),
        "holes": torch.tensor([0, 255, 1, 255]),
        "p": normal().softmax(1),
        "mask": mask,
        "signs": 2 * mask - 1,
        "counts": torch.tensor([[1.0, 0, 3], [2, 0, 1], [1, 5, 0], [0, 0, 2]], dtype=torch.float64),
        "log_var": normal(),
        "w": torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64),
    }
    rows = []
    for theirs, ours in torch_pairs():
        expected, found = eval(theirs, names), eval(ours, names)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        rows.append(f"| `{theirs}` | `{ours}` | {found:.6f} |")
    return "\n".join(["| torch | here | value |", "|---|---|---|", *rows])


# The names that the tests give to options and data, as a reader would write them.
SETS = {
    "SOFTMAX": 'activation="softmax", class_dim=1',
    "SIGMOID": 'activation="sigmoid", class_dim=1',
    "softmax": 'activation="softmax", class_dim=1',
    "sigmoid": 'activation="sigmoid", class_dim=1',
    "BATCH": "dim=(0, 2, 3)",
    "batch": "dim=(0, 2, 3)",
    "ONES": "dice_weight=1.0",
    "image": "dim=(2, 3)",
    "volume": "dim=(2, 3, 4)",
}
DATA = {
    "LOGITS": "logits", "X": "logits", "BINARY": "logits", "X1": "logits", "TWO": "logits",
    "VOLUME": "logits", "LABELS": "labels", "TWO_LABELS": "labels", "MASK": "mask",
    "DEEP": "logits", "DEEP_LABELS": "labels", "VOLUME_MASK": "mask", "ONE_HOT": "one_hot",
    "IGNORED": "labels", "SOFT": "probs",
    "WEIGHTS": "w", "TREE": "distance", "LOPSIDED": "distance", "maps": "signed_distance_map",
}  # fmt: skip


class Reader(ast.NodeTransformer):
    """The call of a test as a reader would write it."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(DATA.get(node.id, node.id))

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        return ast.Name(node.attr) if ast.unparse(node.value) == "pl" else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        shared = [k.value.id for k in node.keywords if k.arg is None and type(k.value) is ast.Name]
        own = [k for k in node.keywords if k.arg is not None]
        if ast.unparse(node.func) == "dice":
            node.func = ast.Name("dice_loss")
            shared.insert(0, "SOFTMAX")
        self.generic_visit(node)
        given = {k.arg for k in own}
        more = ast.parse(f"f({', '.join(SETS[name] for name in shared)})", mode="eval").body
        assert isinstance(more, ast.Call)
        node.keywords = [k for k in more.keywords if k.arg not in given] + own
        return node


def table_in(file: str, name: str) -> ast.expr:
    """The value of a global of a test, as source."""
    for statement in ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return statement.value
    raise LookupError(f"{file} has no {name}")


def entries(file: str, name: str) -> Iterator[tuple[str, list[ast.expr]]]:
    """A dict of tuples in a test."""
    found = table_in(file, name)
    assert isinstance(found, ast.Dict)
    for key, row in zip(found.keys, found.values, strict=True):
        assert isinstance(key, ast.Constant)
        yield str(key.value), row.elts if isinstance(row, ast.Tuple) else [row]


def tuples(file: str, name: str) -> Iterator[list[ast.expr]]:
    """A list of tuples in a test."""
    found = table_in(file, name)
    assert isinstance(found, ast.List)
    for row in found.elts:
        assert isinstance(row, ast.Tuple)
        yield row.elts


def shown(node: ast.AST) -> str:
    return ast.unparse(Reader().visit(copy.deepcopy(node))).replace("'", '"')


def bound(node: ast.AST, data: str) -> str:
    """A function, or a partial of one, as the call that the test makes of it."""
    if isinstance(node, ast.Call):
        options = "".join(f", {k.arg}={ast.unparse(k.value)}" for k in node.keywords)
        return f"{shown(node.args[0])}({data}{options})".replace("'", '"')
    return f"{shown(node)}({data})"


def with_options(name: str, data: str, options: str) -> str:
    given = "".join(f", {key}={value}" for key, value in ast.literal_eval(options).items())
    return f"{name}({data}{given})"


def of_torch() -> Iterator[Row]:
    for theirs, ours in torch_pairs():
        yield Row("torch", f"`{theirs}`", ours, "docs/coming-from.md")


def of_segmentation() -> Iterator[Row]:
    for file, name in (("test_overlap.py", "PARITY"), ("test_topology.py", "PEERS")):
        for key, row in entries(file, name):
            call = shown(row[0].body if isinstance(row[0], ast.Lambda) else row[0])
            call = call.replace("[1:]", "").replace(".double()", "")
            if file == "test_topology.py":  # there it is the mask itself
                call = call.replace("where(labels, 255", "where(ignored, 255")
                call = re.sub(
                    r"where=torch.logical_not\(labels", "where=torch.logical_not(ignored", call
                )
            test = f"tests/{file}::test_the_value_of_a_peer"
            for library in ("MONAI", "SMP", "kornia"):
                for peer in key.split("; "):
                    theirs = re.match(rf"{library} ([\w.]+(?:\(.*?\))?(?:\.sum\(\))?)(.*)", peer)
                    if theirs and ".div(" not in call:
                        note = theirs[2].strip(", ")
                        said = f"`{theirs[1]}`{f': {note}' if note else ''}"
                        yield Row(library, said, call, test)
            if key.startswith("torchvision"):
                yield Row("torchvision", f"`{key}`", call, test)
            if key.startswith("optax"):
                yield Row("optax", key.replace("dice_loss", "`dice_loss`"), call, test)


def of_boxes() -> Iterator[Row]:
    losses = {key: row[0] for key, row in entries("test_boxes.py", "LOSSES")}
    for key, (loss, *_) in entries("test_boxes.py", "PEERS"):
        if isinstance(loss, ast.Subscript):
            assert isinstance(loss.slice, ast.Constant)
            loss = losses[str(loss.slice.value)]
        data = "state, boxes, target" if "wiou" in ast.unparse(loss) else "boxes, target"
        if isinstance(loss, ast.Call):  # the state of Wise IoU is the first argument
            loss = copy.deepcopy(loss)
            loss.args = loss.args[:1]
        test = "tests/test_boxes.py::test_value_of_a_peer"
        yield Row("torchvision", f"`{key}`", bound(loss, data), test)


def of_others() -> Iterator[Row]:
    for peer, loss, data, _ in tuples("test_classification.py", "PEER_VALUES"):
        theirs = str(ast.literal_eval(peer))
        if not re.search(r"F\.|NumPy$|torchvision", theirs):
            here = bound(loss, f"logits, {ast.literal_eval(data)}")
            test = "tests/test_classification.py::test_values_of_peers"
            yield Row("others", theirs, here, test)
    for row in tuples("test_regression.py", "PEERS"):
        name, options, _, _, other = (ast.unparse(part) for part in row)
        if not other.startswith("'F."):
            here = with_options(name[1:-1], "prediction, target", options)
            test = "tests/test_regression.py::test_values_of_peers"
            yield Row("others", other[1:-1], here, test)


def of_likelihoods() -> Iterator[Row]:
    for row in tuples("test_likelihood.py", "PEERS"):
        name, _, options, _, other = (ast.unparse(part) for part in row)
        signature = inspect.signature(getattr(pl, name[1:-1]))
        data = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        what = "the CRPS by quadrature" if ".cdf" in other else "minus the log density"
        said = f"`scipy.stats.{other[1:-1]}`: {what}"
        here = with_options(name[1:-1], ", ".join(data), options)
        yield Row("SciPy", said, here, "tests/test_likelihood.py::test_values_of_scipy")


def of_the_page() -> Iterator[Row]:
    """The tables of the page itself, whose last column names a test."""
    text = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    for section in text.split("\n## ")[1:]:
        library = section.partition("\n")[0]
        for theirs, here, test in re.findall(
            r"^\| (.+?) \| (.+?) \| `(tests/\S+?)`", section, re.M
        ):
            yield Row(library, theirs, here.replace("`", ""), test)


@cache
def rows() -> tuple[Row, ...]:
    parts = (of_torch, of_segmentation, of_boxes, of_others, of_likelihoods, of_the_page)
    return tuple(row for part in parts for row in part())


def table(*libraries: str) -> str:
    found = [row for row in rows() if row.library in libraries]
    assert found, libraries
    lines = [f"| {row.theirs} | `{row.here}` |" for row in found]
    return "\n".join(["| Theirs | here |", "|---|---|", *lines])


def about(name: str) -> list[Row]:
    """The rows in which a loss of ours appears."""
    return [row for row in rows() if re.search(rf"\b{name}\b", row.here)]
