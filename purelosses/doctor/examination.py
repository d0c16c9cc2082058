"""One examination: find out what the loss is, call it, and ask every detector."""

import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from purelosses.doctor import jumps, meaning, severed, transforms, values
from purelosses.doctor.codes import RAISED_BY_TORCH
from purelosses.doctor.kinds import KINDS, guess
from purelosses.doctor.report import Finding, LossError, Report, Site, finding, ordered
from purelosses.doctor.subject import Run, Subject, signature_of, subject_of
from purelosses.transform import name_of

Level: TypeAlias = Literal["train", "func", "deploy", "library"]
LEVELS = ("train", "func", "deploy", "library")


def examine(
    loss: Callable[..., Any],
    *sample: Any,
    kind: str | None = None,
    level: Level = "train",
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    stop_gradient: Sequence[int | str] = (),
) -> Report:
    """Examine a loss with one batch.

    Args:
        loss: A function, a module, a class of modules that needs no arguments, or a partial.
        *sample: One batch, as the loss is called with it. Without one, `kind` provides it.
        kind: What the prediction is, one of `KINDS`; guessed from the sample by default.
        level: What matters: `"train"` plain training, `"func"` also torch.func, `"deploy"` also the
            compiler, export and no waiting for the device, `"library"` also the laws of this
            project.
        select: Only these codes.
        ignore: All but these codes. A comment `# purelosses: ignore[L05]` does it for one line.
        stop_gradient: Arguments, by position or name, that get no gradient on purpose.

    Returns:
        The report.

    Raises:
        ValueError: If `kind` or `level` is unknown, or there is neither a sample nor a kind.

    Examples:
        >>> from purelosses.doctor import examine
        >>> def loss(logits, target):
        ...     return -(torch.sigmoid(logits).log() * target).mean()
        >>> [finding.code for finding in examine(loss, kind="binary_logits").findings][:1]
        ['L04']
    """
    if level not in LEVELS:
        raise ValueError(f"examine: `level` must be one of {LEVELS}, got {level!r}")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"examine: `kind` must be one of {tuple(KINDS)}, got {kind!r}")
    if not sample and kind is None:
        raise ValueError("examine: `sample` must be one batch unless `kind` is given, got neither")
    started = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # batches are small; threads would only wait for each other
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, known = _examined(loss, sample, kind, level, stop_gradient)
    finally:
        torch.set_num_threads(threads)
    selected = [
        f
        for f in found
        if (select is None or f.code in select) and f.code not in (ignore or ()) and not f.ignored
    ]
    seconds = time.perf_counter() - started
    return Report(_name(loss), known, level, ordered(selected), seconds)


def check_loss(loss: Callable[..., Any], *sample: Any, **options: Any) -> Report:
    """`examine`, for a test: raise if there is any finding above advice.

    Args:
        loss: As for `examine`.
        *sample: As for `examine`.
        **options: As for `examine`.

    Returns:
        The report, which then holds advice at most.

    Raises:
        LossError: An AssertionError whose message is the report.
    """
    report = examine(loss, *sample, **options)
    if not report.ok:
        raise LossError(report)
    return report


def _name(loss: Any) -> str:
    if isinstance(loss, nn.Module):
        return type(loss).__name__
    try:
        return name_of(loss)
    except Exception:
        return type(loss).__name__


def _examined(
    loss: Any, sample: tuple[Any, ...], kind: str | None, level: str, stopped: Sequence[int | str]
) -> tuple[list[Finding], str | None]:
    if not callable(loss):
        return [finding("L00", f"It is not callable: {type(loss).__name__}.")], kind
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        try:
            loss = loss()
        except Exception as error:
            message = f"{loss.__name__}() raises {type(error).__name__}: {error}"
            return [finding("L00", message, _definition(loss))], kind
    declared = kind is not None
    certain = declared
    if sample and kind is None:
        kind, certain = guess(loss, sample)
    candidates = [sample] if sample else [make() for make in KINDS[kind or ""].samples]
    subject, run = None, Run()
    for candidate in candidates:
        subject = subject_of(
            loss, candidate, kind=kind, declared=certain, level=level, stop_gradient=stopped
        )
        run = subject.trace()
        if run.error is None:
            break
    assert subject is not None
    found = list(_cannot(subject, run))
    if run.value is None or run.error is not None:
        return found, kind
    return found + list(_findings(subject, run)), kind


def _definition(loss: Any) -> Site | None:
    loss = type(loss) if isinstance(loss, nn.Module) else getattr(loss, "func", loss)
    try:
        return Site(inspect.getsourcefile(loss) or "", inspect.getsourcelines(loss)[1])
    except (OSError, TypeError):
        return None


def _cannot(subject: Subject, run: Run) -> Iterator[Finding]:
    """L00: it raises, or returns no loss; L01 if that is because the loss is a number."""
    if run.error is not None:
        text = (str(run.error).strip().splitlines() or [""])[0]
        code = next((c for part, c in RAISED_BY_TORCH.items() if part in str(run.error)), "L00")
        if code == "L05" and run.value is None:
            code = "L00"
        site = run.site
        if code == "L02":
            assert run.trace is not None
            made = [n for n in run.trace.nodes if n.decides]
            code, site = ("L02", made[0].site) if made else ("L00", site)
        told = f"It raises {type(run.error).__name__}: {text[:300]}"
        yield finding(code, told, site or _definition(subject.loss))
        return
    if run.value is not None:
        return
    taken = list(severed.numbers_that_flow(subject, run))
    if taken:
        yield from taken
        return
    result = run.result
    what = type(result).__name__
    if isinstance(result, Tensor):
        what = f"a tensor of {str(result.dtype)[6:]} ({str(result.layout)[6:]}, {result.device})"
        assert run.trace is not None
        node = run.trace.node(result)
        made = [n for n in run.trace.ancestors(node) if n.decides] if node else []
        if made:
            message = f"`{made[0].name}` is a decision, and it returns {what}."
            yield finding("L02", message, made[0].site)
            return
    yield finding("L00", f"It returns {what}, not a loss.", _return_site(subject))


def _return_site(subject: Subject) -> Site | None:
    loss: Any = getattr(subject.loss, "func", subject.loss)
    loss = type(loss).forward if isinstance(loss, nn.Module) else loss
    try:
        text, first = inspect.getsourcelines(loss)
        file = inspect.getsourcefile(loss) or ""
    except (OSError, TypeError):
        return None
    returns = [i for i, line in enumerate(text) if line.strip().startswith("return")]
    return Site(file, first + (returns[-1] if returns else 0))


Detector: TypeAlias = Callable[[], Iterator[Finding]]


def _findings(subject: Subject, run: Run) -> Iterator[Finding]:
    """Every detector that the level asks for; one that fails says nothing."""
    found: list[Finding] = []
    learns = bool(run.leaves)

    def ask(detector: Detector) -> None:
        try:
            found.extend(detector())
        except Exception:
            if DEBUG:
                raise

    ask(partial(values.changed_inputs, subject))
    ask(partial(values.hidden_state, subject, run))
    steady = replace(subject, loss=subject.loss)
    ask(partial(values.reduction, steady, run))
    ask(partial(values.broadcasting, subject, run))
    if learns and run.finite:
        ask(partial(severed.lost_gradient, subject, run))
        ask(lambda: severed.wrong_derivative(subject, run, list(found)))
        ask(partial(severed.idle_parameters, subject, run))
    ask(partial(values.stability, subject, run))
    ask(partial(meaning.activations, subject, run))
    ask(lambda: meaning.doubled_floor(subject, run, list(found)))
    ask(partial(meaning.masks_of_255, subject, run))
    scalar = run.value is not None and run.value.numel() == 1
    if run.finite and scalar and learns:
        severed_already = any(
            f.code in ("L01", "L02", "L05") and f.severity == "error" for f in found
        )
        ask(partial(meaning.upside_down, subject, run))
        ask(partial(meaning.shifting_minimum, subject, run))
        ask(partial(meaning.labels_out_of_range, subject, run))
        ask(partial(meaning.ignored_positions, subject, run))
        ask(partial(meaning.sum_of_none, subject))
        ask(partial(values.dead_on_empty, subject, run))
        ask(partial(meaning.absolute_epsilon, subject, run))
        if not any(f.code in ("L12", "L13") for f in found):
            ask(partial(meaning.dead_activation, subject, run))
        if not severed_already:
            ask(partial(jumps.discontinuity, subject, run))
    ask(partial(values.half_precision, subject, run))
    ask(partial(transforms.synchronisation, subject, run))
    if subject.level != "train" and learns:
        ask(partial(transforms.forward_mode, subject, run))
        ask(partial(transforms.mapped, subject, run))
    if subject.level in ("deploy", "library"):
        ask(partial(transforms.compiled, subject, run))
    if subject.level == "library":
        from purelosses.doctor.library import broken_laws

        ask(partial(broken_laws, subject))
    yield from found


DEBUG = False
__all__ = ["LEVELS", "check_loss", "examine", "signature_of"]
