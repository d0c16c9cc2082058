"""One examination: find out what the loss is, call it, and ask every detector."""

import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from purelosses.doctor import jumps, meaning, severed, transforms, values
from purelosses.doctor.codes import CODES, RAISED_BY_TORCH
from purelosses.doctor.kinds import KINDS, guess
from purelosses.doctor.report import Finding, LossError, Report, Site, finding, ordered
from purelosses.doctor.subject import Run, Subject, subject_of
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
        ValueError: If `kind`, `level` or a code is unknown, or there is neither a sample nor a
            kind.

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
    wanted = None if select is None else tuple(select)
    unwanted = tuple(ignore or ())
    for option, codes in (("select", wanted or ()), ("ignore", unwanted)):
        for code in codes:
            if not known_code(code):
                raise ValueError(f"examine: `{option}` must hold codes such as 'L04', got {code!r}")
    started = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # batches are small; threads would only wait for each other
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, known, notes = _examined(loss, sample, kind, level, stop_gradient)
    finally:
        torch.set_num_threads(threads)
    selected = [
        f
        for f in found
        if (wanted is None or f.code in wanted) and f.code not in unwanted and not f.ignored
    ]
    seconds = time.perf_counter() - started
    return Report(_name(loss), known, level, ordered(selected), seconds, tuple(notes))


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


def known_code(code: str) -> bool:
    if code in CODES:
        return True
    from purelosses.laws import LAWS

    return code in LAWS


def _name(loss: Any) -> str:
    if isinstance(loss, nn.Module):
        return type(loss).__name__
    try:
        return name_of(loss)
    except Exception:
        return type(loss).__name__


def _examined(
    loss: Any, sample: tuple[Any, ...], kind: str | None, level: str, stopped: Sequence[int | str]
) -> tuple[list[Finding], str | None, list[str]]:
    """The findings, the kind, and what could not be judged."""
    if not callable(loss):
        return [finding("L00", f"It is not callable: {type(loss).__name__}.")], kind, []
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        try:
            loss = loss()
        except Exception as error:
            message = f"{loss.__name__}() raises {type(error).__name__}: {error}"
            return [finding("L00", message, _definition(loss))], kind, []
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
        return found, kind, []
    more, notes = _findings(subject, run)
    return found + more, kind, notes


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


def _findings(subject: Subject, run: Run) -> tuple[list[Finding], list[str]]:
    """What the detectors of the level find, and which of them failed."""
    found: list[Finding] = []
    notes: list[str] = []
    learns = bool(run.leaves)

    def ask(codes: str, detector: Callable[..., Iterator[Finding]], *more: Any) -> None:
        try:
            found.extend(detector(subject, *more))
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            notes.append(f"could not judge: {codes} ({type(error).__name__}: {reason[:200]})")

    ask("L06", values.changed_inputs)
    ask("L08", values.hidden_state, run)
    ask("L03", values.reduction, run)
    ask("L09", values.broadcasting, run)
    if learns and run.finite:
        ask("L01, L02, L05", severed.lost_gradient, run)
        ask("L07", severed.wrong_derivative, run, list(found))
        ask("L22", severed.idle_parameters, run)
    ask("L04", values.stability, run)
    ask("L12, L13", meaning.activations, run)
    ask("L12", meaning.doubled_floor, run, list(found))
    ask("L14", meaning.masks_of_255, run)
    scalar = run.value is not None and run.value.numel() == 1
    if run.finite and scalar and learns:
        severed_already = any(
            f.code in ("L01", "L02", "L05") and f.severity == "error" for f in found
        )
        ask("L10", meaning.upside_down, run)
        ask("L11", meaning.shifting_minimum, run)
        ask("L15", meaning.labels_out_of_range, run)
        ask("L16", meaning.ignored_positions, run)
        ask("L17", meaning.sum_of_none)
        ask("L18", values.dead_on_empty, run)
        ask("L24", meaning.absolute_epsilon, run)
        if not any(f.code in ("L12", "L13") for f in found):
            ask("L12", meaning.dead_activation, run)
        if not severed_already:
            ask("L23", jumps.discontinuity, run)
    ask("L19", values.half_precision, run)
    ask("L20", transforms.synchronisation, run)
    if subject.level != "train" and learns:
        ask("L25", transforms.forward_mode, run)
        ask("L26", transforms.mapped, run)
    if subject.level in ("deploy", "library"):
        ask("L21, L27", transforms.compiled, run)
    if subject.level == "library":
        from purelosses.doctor.library import broken_laws

        ask("the laws", broken_laws)
    return found, notes
