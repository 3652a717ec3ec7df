"""Our losses against those of TRL, on shared log-probabilities in double precision.

TRL has no loss functions to call, so its trainers are made without their constructors and get a
stub that answers with the token log-probabilities of this module.
"""

from __future__ import annotations

import pkgutil
import types
import warnings
from collections import defaultdict

import numpy as np
import pytest
import torch

from llm_bridge.training.unpaired import UnpairedKTO
from rlhf_theory import losses
from rlhf_theory.losses import Comparisons, soft

pytest.importorskip("trl")

N, PROMPT, TOKENS = 6, 2, 5
BETAS = (0.05, 0.3, 2.0)

# TRL makes the smoothing of `exo_pair` a float32 number, and runs `alpha_divergence` in float32
# (its table of clamps has no entry for float64); everything else agrees in double precision.
EXACT, FLOAT32_CONSTANT, FLOAT32 = 1e-12, 1e-6, 1e-5


@pytest.fixture(scope="module", autouse=True)
def trl():
    """Return the trainers; what they warn about on import is none of our business."""
    names = {
        "DPO": "trl.DPOTrainer",
        "KTO": "trl.KTOTrainer",
        "CPO": "trl.experimental.cpo.CPOTrainer",
        "ORPO": "trl.experimental.orpo.ORPOTrainer",
    }
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        return types.SimpleNamespace(**{k: pkgutil.resolve_name(v) for k, v in names.items()})


class Accelerator:
    """The parts of an accelerator that a loss method calls, on one process."""

    device = torch.device("cpu")

    def gather(self, x):
        return x

    gather_for_metrics = gather


class Rows:
    """Completions of several lengths with token log-probabilities; winners first, then losers."""

    def __init__(self, seed, *, n=N, lengths=None):
        draw = np.random.default_rng(seed)
        self.n = n
        if lengths is None:
            lengths = draw.integers(1, TOKENS + 1, 2 * n)
        self.mask = np.arange(PROMPT + TOKENS)[None, :] < PROMPT + np.asarray(lengths)[:, None]
        self.mask[:, :PROMPT] = False
        shifted = self.mask[:, 1:]
        self.log_pi = np.where(shifted, -draw.uniform(0.01, 3.0, shifted.shape), 0.0)
        self.log_ref = np.where(shifted, -draw.uniform(0.01, 3.0, shifted.shape), 0.0)
        self.lengths = np.asarray(lengths, dtype=float)

    def inputs(self, dtype=torch.float64):
        ref = torch.tensor(self.log_ref.sum(1), dtype=dtype)
        ids = torch.ones(self.mask.shape, dtype=torch.long)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "completion_mask": torch.tensor(self.mask, dtype=torch.long),
            "ref_chosen_logps": ref[: self.n],
            "ref_rejected_logps": ref[self.n :],
        }

    def model(self, dtype=torch.float64):
        """Return a stub of a language model with a fused head."""
        zero = torch.zeros(self.log_pi.shape, dtype=dtype)
        answer = types.SimpleNamespace(
            log_probs=torch.tensor(self.log_pi, dtype=dtype),
            entropy=zero,
            mean_logits=zero,
            is_top1=zero > 0,
        )
        return lambda **_: answer

    def comparisons(self, *, reference=True, per_token=False, dtype=np.float64, **given):
        scale = 1.0 / self.lengths if per_token else np.ones(2 * self.n)
        columns = {"log_pi": self.log_pi.sum(1) * scale, "length": self.lengths}
        if reference:
            columns["log_ref"] = self.log_ref.sum(1)
        fields = {}
        for name, column in columns.items():
            fields[f"{name}_w"], fields[f"{name}_l"] = column[: self.n], column[self.n :]
        fields |= given
        return Comparisons(**{k: v.astype(dtype) for k, v in fields.items()})


def trainer(kind, **settings):
    """Return a trainer without its constructor, with what its loss method reads."""
    made = object.__new__(kind)
    defaults = {
        "accelerator": Accelerator(),
        "model": types.SimpleNamespace(training=True),
        "beta": 0.1,
        "label_smoothing": 0.0,
        "loss_weights": [1.0],
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "ld_alpha": None,
        "use_weighting": False,
        "aux_loss_enabled": False,
        "precompute_ref_logps": True,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    for name, value in (defaults | settings).items():
        setattr(made, name, value)
    return made


def dpo_loss(trl, rows, kind, *, dtype=torch.float64, **settings):
    made = trainer(trl.DPO, loss_types=[kind], **settings)
    return float(made._compute_loss(rows.model(dtype), rows.inputs(dtype), return_outputs=False))


def assert_close(found, expected, rtol=EXACT):
    np.testing.assert_allclose(found, expected, rtol=rtol)


PAIRS = {
    "sigmoid": (losses.DPO, EXACT),
    "hinge": (losses.Hinge, EXACT),
    "ipo": (losses.IPOPerToken, EXACT),
    "nca_pair": (losses.NCAPair, EXACT),
    "bco_pair": (losses.BCO, EXACT),
    "sppo_hard": (losses.SPPOHard, EXACT),
}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("beta", BETAS)
def test_pairwise_losses(trl, kind, beta):
    make, rtol = PAIRS[kind]
    for seed in range(3):
        rows = Rows(seed)
        expected = dpo_loss(trl, rows, kind, beta=beta)
        assert_close(make(beta)(rows.comparisons()).mean(), expected, rtol)


@pytest.mark.parametrize("beta", BETAS)
def test_sequence_ipo_is_theirs_where_lengths_are_one(trl, beta):
    rows = Rows(1, lengths=np.ones(2 * N, dtype=int))
    assert_close(losses.IPO(beta)(rows.comparisons()).mean(), dpo_loss(trl, rows, "ipo", beta=beta))
    longer = Rows(1)
    assert losses.IPO(beta)(longer.comparisons()).mean() != pytest.approx(
        dpo_loss(trl, longer, "ipo", beta=beta), rel=1e-3
    )


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("smoothing", [0.05, 0.3])
def test_smoothed_losses(trl, beta, smoothing):
    rows = Rows(2)
    settings = {"beta": beta, "label_smoothing": smoothing}
    c = rows.comparisons()
    robust = losses.RobustDPO(beta, smoothing)(c).mean()
    # Flipped labels enter with the other sign: the mean may be small, so an absolute tolerance.
    np.testing.assert_allclose(robust, dpo_loss(trl, rows, "robust", **settings), atol=1e-13)
    exo = losses.EXO(beta, smoothing)(c).mean()
    assert_close(exo, dpo_loss(trl, rows, "exo_pair", **settings), FLOAT32_CONSTANT)
    # `aot` sorts the batch, and smooths: with a single comparison it is cDPO.
    one = Rows(3, n=1)
    cdpo = losses.CDPO(beta, smoothing)(one.comparisons())
    assert_close(cdpo, dpo_loss(trl, one, "aot", **settings))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "js_divergence"])
def test_f_divergences(trl, beta, kind):
    ours = {"js_divergence": "js"}.get(kind, kind.replace("_", "-"))
    for seed in range(3):
        rows = Rows(seed)
        expected = dpo_loss(trl, rows, "sigmoid", beta=beta, f_divergence_type=kind)
        assert_close(losses.FDPO(beta, ours)(rows.comparisons()).mean(), expected)


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.4, 0.9])
def test_alpha_divergences_in_single_precision(trl, alpha):
    # Its coefficient is our alpha: f'(t) = (t^(alpha - 1) - 1) / (alpha - 1).
    rows = Rows(4)
    settings = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": alpha}
    expected = dpo_loss(trl, rows, "sigmoid", beta=0.3, dtype=torch.float32, **settings)
    c = rows.comparisons(dtype=np.float32)
    assert_close(losses.FDPO(0.3, "alpha", alpha=alpha)(c).mean(), expected, FLOAT32)


@pytest.mark.parametrize("beta", BETAS)
def test_kto(trl, beta):
    for seed, kl in ((5, 0.7), (6, -0.4)):
        rows = Rows(seed)
        made = trainer(
            trl.KTO,
            beta=beta,
            loss_type="kto",
            calculate_KL=True,
            desirable_weight=1.3,
            undesirable_weight=0.8,
        )
        mismatched = torch.full((2 * N,), -2.0, dtype=torch.float64)
        made._compute_kl_logps = lambda *_, answer=mismatched: answer
        inputs = rows.inputs()
        inputs |= {
            "label": torch.tensor([True] * N + [False] * N),
            "ref_logps": torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]]),
            "ref_KL_logps": mismatched - kl,
        }
        # A mean over 2 n responses, where ours is the sum over the two of a comparison.
        expected = 2.0 * float(made._compute_loss(rows.model(), inputs, return_outputs=False))
        z0 = losses.mismatched_kl(np.full(N, -2.0), np.full(N, -2.0 - kl))
        loss = losses.KTO(beta, desirable=1.3, undesirable=0.8)
        assert_close(loss(rows.comparisons(z0=z0)).mean(), expected)
        made.loss_type = "apo_zero_unpaired"
        expected = 2.0 * float(made._compute_loss(rows.model(), inputs, return_outputs=False))
        assert_close(loss(rows.comparisons(z0=np.zeros(N))).mean(), expected)


@pytest.mark.parametrize("beta", BETAS)
def test_unpaired_kto(trl, beta):
    """Other numbers of desirable responses than of undesirable ones, and another order."""
    rows, kl = Rows(8), 0.4
    good = torch.arange(2 * N) % 3 == 0
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.8}
    made = trainer(trl.KTO, beta=beta, loss_type="kto", calculate_KL=True, **weights)
    mismatched = torch.full((2 * N,), -2.0, dtype=torch.float64)
    made._compute_kl_logps = lambda *_: mismatched
    inputs = rows.inputs()
    ref = torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
    inputs |= {"label": good, "ref_logps": ref, "ref_KL_logps": mismatched - kl}
    expected = float(made._compute_loss(rows.model(), inputs, return_outputs=False))
    z0 = torch.as_tensor(kl, dtype=torch.float64)
    log_pi = torch.tensor(rows.log_pi.sum(1))
    found = UnpairedKTO(beta, 1.3, 0.8)(log_pi, ref, good.double(), z0)
    assert_close(float(found.mean()), expected)


@pytest.mark.parametrize("beta", BETAS)
def test_apo_zero_is_kto_without_its_zero(trl, beta):
    rows = Rows(9)
    ours = losses.KTO(beta)(rows.comparisons(z0=np.zeros(N))).mean()
    assert_close(ours, dpo_loss(trl, rows, "apo_zero", beta=beta))


def cpo_losses(trl, c, kind, **settings):
    made = trainer(trl.CPO, loss_type=kind, **{"alpha": 0.0, "simpo_gamma": 0.5, **settings})
    return made.cpo_loss(torch.tensor(c.log_pi_w), torch.tensor(c.log_pi_l))[0].numpy()


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cpo_family(trl, beta, smoothing):
    rows = Rows(7)
    sums, means = (rows.comparisons(reference=False, per_token=per) for per in (False, True))
    settings = {"beta": beta, "label_smoothing": smoothing}
    p = np.full(N, 1.0 - smoothing)
    assert_close(
        soft(losses.CPO(beta, lam=0.0), sums, p), cpo_losses(trl, sums, "sigmoid", **settings)
    )
    assert_close(
        losses.SimPO(beta, gamma=0.5)(sums),
        cpo_losses(trl, means, "simpo", beta=beta),
    )
    zero = np.zeros(N)
    uniform = rows.comparisons(reference=False, log_ref_w=zero, log_ref_l=zero)
    assert_close(
        losses.CDPO(beta, smoothing)(uniform), cpo_losses(trl, sums, "sigmoid", **settings)
    )
    assert_close(losses.Hinge(beta)(uniform), cpo_losses(trl, sums, "hinge", **settings))
    assert_close(losses.IPOPerToken(beta)(uniform), cpo_losses(trl, means, "ipo", **settings))


@pytest.mark.parametrize("lam", [0.1, 1.0])
def test_orpo_in_single_precision(trl, lam):
    rows = Rows(8)
    c = rows.comparisons(reference=False, per_token=True)
    made = trainer(trl.ORPO, beta=lam)
    gained = made.odds_ratio_loss(torch.tensor(c.log_pi_w), torch.tensor(c.log_pi_l))[0].numpy()
    # Its likelihood term is a mean over the tokens of the batch; ours of each response.
    assert_close(losses.ORPO(lam)(rows.comparisons(reference=False)), -c.log_pi_w - gained, FLOAT32)
