"""The findings of the doctor: stable codes, what each means, why it matters and how to mend it."""

from typing import Literal, NamedTuple, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "advice"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "advice")


class Code(NamedTuple):
    """One kind of finding."""

    name: str
    severity: Severity  # by default; what was measured can lower it
    why: str
    fix: str


CODES: dict[str, Code] = {
    "L00": Code(
        "could-not-run",
        "error",
        "A loss is called with one batch and returns one real number as a tensor; without that "
        "nothing can be trained or examined.",
        "Call it by hand with the same batch; return a 0-dimensional floating-point tensor (or "
        "that and a dict for logging).",
    ),
    "L01": Code(
        "number-out-of-graph",
        "error",
        "A Python or NumPy number has no gradient: what is computed from it is a constant to "
        "autograd, however much the loss depends on it.",
        "Stay with tensors. For logging, return `loss.detach()` and convert it outside the loss.",
    ),
    "L02": Code(
        "not-differentiable",
        "error",
        "The derivative of a decision (argmax, round, a threshold, a hard mask) is zero wherever "
        "it exists: nothing is learnt from it.",
        "Use the soft quantity: probabilities instead of the decision, sigmoid((x - t) / T) "
        "instead of x > t, or a straight-through estimator.",
    ),
    "L03": Code(
        "reduction",
        "error",
        "`backward()` needs one number, and a sum over the batch makes the step size depend on "
        "the batch size.",
        "End in `.mean()`, or offer `reduction=` and let the caller choose.",
    ),
    "L04": Code(
        "not-stable",
        "error",
        "One batch that reaches the point makes the weights NaN, and no later batch mends them.",
        "Use the stable form (`logsigmoid`, `log_softmax`, `logsumexp`, `softplus`, `xlogy`), put "
        "an epsilon inside the root or the denominator, or guard the *input* with `torch.where`.",
    ),
    "L05": Code(
        "detached",
        "error",
        "What is detached counts in the value but not in the gradient: the optimiser works on "
        "another function than the one that is reported.",
        "Remove `detach`, `no_grad`, `.data` or `Variable` from what the prediction flows through.",
    ),
    "L06": Code(
        "changes-its-input",
        "error",
        "The caller still holds the tensor: its metrics, the next loss and autograd itself see "
        "the changed values.",
        "Use the form without underscore (`clamp` for `clamp_`), `torch.where`, or clone first.",
    ),
    "L07": Code(
        "wrong-backward",
        "error",
        "A handwritten backward that is not the derivative of its forward leads somewhere else "
        "than downhill.",
        "Derive it again and check it with `torch.autograd.gradcheck`, or leave it to autograd.",
    ),
    "L08": Code(
        "hidden-state",
        "warning",
        "The same batch gives different losses: runs cannot be reproduced, resumed or compared.",
        "Make randomness and state arguments: pass the noise or the generator, return the state.",
    ),
    "L09": Code(
        "broadcasting",
        "error",
        "Shapes such as (N, 1) and (N,) combine into (N, N): every prediction is compared with "
        "every target, and the model learns the mean.",
        "Compare `prediction.shape` with `target.shape` at the start and raise; then "
        "`squeeze(-1)` or `unsqueeze(-1)` where the batch is made.",
    ),
    "L10": Code(
        "upside-down",
        "error",
        "The optimiser minimises: a loss that is lower for wrong predictions teaches them.",
        "Negate it, or subtract the score from its best value (`1 - dice`).",
    ),
    "L11": Code(
        "minimum-depends-on-target",
        "warning",
        "A perfect prediction costs more on some targets than on others, so the loss measures the "
        "data as well as the model, and batches cannot be compared.",
        "Treat the degenerate target apart: the same smoothing in numerator and denominator makes "
        "0/0 a perfect match.",
    ),
    "L12": Code(
        "activation",
        "error",
        "An activation applied twice flattens the loss and its gradient; one that is constant "
        "(a ReLU below zero, a softmax over one entry, a clamp) stops it.",
        "Give raw logits to losses that contain their activation, and do not clip what is learnt.",
    ),
    "L13": Code(
        "probabilities-or-logits",
        "error",
        "Logits, probabilities and log-probabilities are all real numbers, so the wrong one gives "
        "a number, but not the one that was meant.",
        "`cross_entropy` and `..._with_logits` take logits, `nll_loss` and `kl_div` log-"
        "probabilities, `binary_cross_entropy` and overlap losses probabilities.",
    ),
    "L14": Code(
        "mask-of-255",
        "error",
        "A mask read from an image holds 0 and 255. Overlap losses leave their range, "
        "cross-entropies become negative, and both still go down.",
        "Convert where the batch is made: `mask = (mask > 127).float()`.",
    ),
    "L15": Code(
        "label-out-of-range",
        "warning",
        "A label that no class has (255 for void, an off-by-one) is silently learnt as something "
        "else, or as nothing.",
        "Raise, or return NaN; leave ignored positions out with an explicit mask.",
    ),
    "L16": Code(
        "ignored-positions",
        "error",
        "What is masked must not count: neither in the sum nor in the number it is divided by.",
        "`torch.where(mask, loss, 0).sum() / mask.sum().clamp_min(1)`, with the unsafe input "
        "replaced under the mask as well.",
    ),
    "L17": Code(
        "sum-is-not-sum",
        "warning",
        "`reduction` promises that the three results differ by the reduction alone; code that "
        "accumulates gradients or weights samples relies on it.",
        "Compute the unreduced losses once and reduce them in one place.",
    ),
    "L18": Code(
        "dead-on-empty",
        "warning",
        "On images without an object nothing pushes false alarms down: the model keeps them.",
        "In an overlap, smooth the numerator too: 1 - (2 i + s) / (a + b + s). In a cross-entropy, "
        "keep the term of the negatives.",
    ),
    "L19": Code(
        "half-overflow",
        "warning",
        "float16 ends at 65504 and bfloat16 has 8 bits: sums over pixels overflow, small "
        "epsilons vanish.",
        "Convert to float32 on entry, and never to half inside.",
    ),
    "L20": Code(
        "host-sync",
        "advice",
        "The GPU must finish before Python gets the number; it idles at each step.",
        "Keep tensors: `torch.where` instead of `if`, `detach()` instead of `item()`.",
    ),
    "L21": Code(
        "graph-break",
        "warning",
        "`torch.compile(fullgraph=True)` and `torch.export` need one graph without Python "
        "decisions on values.",
        "Replace `if`, `.item()` and boolean indexing by `torch.where`.",
    ),
    "L22": Code(
        "idle-parameter",
        "warning",
        "A parameter without gradient stays what it was; one that is not registered is never "
        "given to the optimiser, moved to the GPU or saved.",
        "Use it in the loss, and register it as `nn.Parameter` (in `nn.ParameterList` if many).",
    ),
    "L23": Code(
        "discontinuity",
        "warning",
        "At a jump the gradient knows nothing of the change it causes; training rattles there.",
        "Make the pieces meet: the branches must agree in value where the condition flips.",
    ),
    "L24": Code(
        "absolute-epsilon",
        "warning",
        "An epsilon that is not small against the data decides the loss: the same scene in "
        "pixels and in normalised coordinates gives different losses.",
        "Choose an epsilon far below the smallest true denominator, or clamp instead of adding.",
    ),
    "L25": Code(
        "forward-mode",
        "warning",
        "`torch.func.jvp` and `hessian` give another derivative than `backward`; `no_grad` does "
        "not stop forward mode.",
        "`detach()` instead of `no_grad`, and a custom Function with `setup_context` and `jvp`.",
    ),
    "L26": Code(
        "vmap",
        "warning",
        "Per-sample losses and gradients through `torch.vmap` fail, or differ from a loop.",
        "No `.item()`, no `if` on values, no in-place, no boolean indexing; name axes from the "
        "end.",
    ),
    "L27": Code(
        "compiled-value",
        "error",
        "The compiled loss is not the loss that was tested.",
        "Look for Python state and randomness inside the loss; report what remains to torch.",
    ),
}

RAISED_BY_TORCH = {
    "Can't call numpy() on Tensor that requires grad": "L01",
    "modified by an inplace operation": "L06",
    "leaf Variable that requires grad is being used in an in-place": "L06",
    "grad can be implicitly created only for scalar": "L03",
    "is not implemented": "L02",
    "does not require grad and does not have a grad_fn": "L05",
}
