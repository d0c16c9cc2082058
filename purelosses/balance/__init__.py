r"""Several losses, one number: balancing tasks of different kinds and scales."""

from purelosses.balance._state import (
    State,
)
from purelosses.balance._tasks import (
    Sync,
)
from purelosses.balance.combinators import (
    Balancer,
    clip,
    ema,
    every,
)
from purelosses.balance.dynamic import (
    SoftAdaptForm,
    cov_weights_init,
    cov_weights_update,
    dwa_init,
    dwa_update,
    famo_init,
    famo_update,
    random_weights_init,
    random_weights_update,
    relobralo_init,
    relobralo_update,
    softadapt_init,
    softadapt_update,
)
from purelosses.balance.norms import (
    gradnorm_init,
    gradnorm_update,
    inverse_grad_norm_init,
    inverse_grad_norm_update,
    ntk_weights_init,
    ntk_weights_update,
)
from purelosses.balance.scalar import (
    chebyshev_loss,
    geometric_mean_loss,
    log_sum_loss,
    losses_from_statistics,
    smooth_chebyshev_loss,
    task_statistics,
    weighted_sum_loss,
)
from purelosses.balance.uncertainty import (
    AnalyticForm,
    Likelihood,
    UncertaintyForm,
    analytic_uncertainty_weights,
    optimal_log_vars,
    tempered_cross_entropy_loss,
    uncertainty_weighted_init,
    uncertainty_weighted_loss,
)

__all__ = [
    "AnalyticForm",
    "Balancer",
    "Likelihood",
    "SoftAdaptForm",
    "State",
    "Sync",
    "UncertaintyForm",
    "analytic_uncertainty_weights",
    "chebyshev_loss",
    "clip",
    "cov_weights_init",
    "cov_weights_update",
    "dwa_init",
    "dwa_update",
    "ema",
    "every",
    "famo_init",
    "famo_update",
    "geometric_mean_loss",
    "gradnorm_init",
    "gradnorm_update",
    "inverse_grad_norm_init",
    "inverse_grad_norm_update",
    "log_sum_loss",
    "losses_from_statistics",
    "ntk_weights_init",
    "ntk_weights_update",
    "optimal_log_vars",
    "random_weights_init",
    "random_weights_update",
    "relobralo_init",
    "relobralo_update",
    "smooth_chebyshev_loss",
    "softadapt_init",
    "softadapt_update",
    "task_statistics",
    "tempered_cross_entropy_loss",
    "uncertainty_weighted_init",
    "uncertainty_weighted_loss",
    "weighted_sum_loss",
]
