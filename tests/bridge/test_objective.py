"""The loss of a batch of examples, against plain scores and the losses on NumPy arrays."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from llm_bridge.language.log_probs import sequence_log_probs
from llm_bridge.training.examples import Example, with_mismatched
from llm_bridge.training.objective import Objective, _cut
from rlhf_theory.losses import (
    BCO,
    DPO,
    IPO,
    KTO,
    NCA,
    ORPO,
    RDPO,
    RRHF,
    SPPO,
    XPO,
    Comparisons,
    Groups,
    InfoNCA,
    IPOPerToken,
    SimPO,
    SLiC,
    mismatched_kl,
    soft,
)
from tests.helpers.examples import arrays, examples, in_double


def mean_loss(model: Any, loss: Any, made: Any) -> float:
    """Return the loss of one batch of all examples, as training has it at its first step."""
    objective = Objective(loss, made, model)
    batch = objective.collate(made)
    with torch.no_grad():
        z0 = objective.kl_estimate(model.model, [batch])
        return float(objective(model.model, batch, z0)) / (len(made) * objective.mean_weight)


PAIR_LOSSES = [
    DPO(0.7),
    IPO(0.3),
    IPOPerToken(0.3),
    RDPO(0.7, 0.1),
    SimPO(2.0, 0.5),
    ORPO(0.5),
    BCO(0.7),
    KTO(0.7),
    SPPO(2.0),
    XPO(0.7, 0.1),
    SLiC(1.0, 0.1),
]


@pytest.mark.parametrize("loss", PAIR_LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("p", [1.0, 0.0, 0.3])
def test_loss_of_a_batch_is_that_of_plain_scores(tiny_model, loss, p):
    """The batch, its weights and its order against NumPy, one example at a time."""
    made = examples(tiny_model, 5, target=(p,))
    # A reference other than the model, so that ratios are not zero; unequal weights.
    made = [
        replace(
            e,
            log_ref=tuple(v - 0.3 * j for j, v in enumerate(e.log_ref)),
            weight=0.5 + i,
            wins=(0.6, 0.2) if "wins" in loss.needs else (),
            sample=((5, 6, 2) if i else 1) if "sample" in loss.needs else None,
        )
        for i, e in enumerate(made)
    ]
    if "z0" in loss.needs:
        made = with_mismatched(tiny_model, made)
        made = [replace(e, log_ref_mismatched=e.log_ref_mismatched - 0.4) for e in made]
    z0 = None
    if "z0" in loss.needs:
        prompts, strangers = [e.prompt for e in made], [e.mismatched for e in made]
        log_pi = sequence_log_probs(tiny_model, prompts, strangers)
        z0 = mismatched_kl(log_pi, np.array([e.log_ref_mismatched for e in made]))
        assert z0[0] == pytest.approx(0.4, abs=1e-5)
    values = []
    for e in made:
        log_pi, lengths = arrays(tiny_model, e)
        given: dict[str, Any] = {}
        if "sample" in loss.needs:
            ids = e.responses[e.sample] if isinstance(e.sample, int) else e.sample
            given["log_pi_sample"] = sequence_log_probs(tiny_model, [e.prompt], [ids])
        if e.wins:
            given |= {"win_w": np.array([e.wins[0]]), "win_l": np.array([e.wins[1]])}
        c = Comparisons(
            log_pi[:1],
            log_pi[1:],
            np.array(e.log_ref[:1]),
            np.array(e.log_ref[1:]),
            lengths[:1],
            lengths[1:],
            z0=None if z0 is None else z0[:1],
            **given,
        )
        values.append(e.weight * soft(loss, c, np.array([p]))[0])
    expected = sum(values) / sum(e.weight for e in made)
    assert mean_loss(tiny_model, loss, made) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [InfoNCA(0.5, 0.4), NCA(0.5, 0.4), RRHF()], ids=lambda x: x.name)
def test_groups_of_different_sizes_are_each_one_group(tiny_model, loss):
    made = examples(tiny_model, 3, k=3, target=(0.3, -1.0, 2.0))
    made += examples(tiny_model, 2, k=4, target=(0.3, -1.0, 2.0, 0.1), seed=1)
    made = [
        replace(e, log_ref=tuple(v - 0.3 * j for j, v in enumerate(e.log_ref)), weight=1.0 + i)
        for i, e in enumerate(made)
    ]
    values = []
    for e in made:
        log_pi, lengths = arrays(tiny_model, e)
        groups = Groups(*(np.array(v)[None] for v in (log_pi, e.target, e.log_ref, lengths)))
        values.append(e.weight * loss(groups)[0])
    expected = sum(values) / sum(e.weight for e in made)
    assert mean_loss(tiny_model, loss, made) == pytest.approx(expected, rel=1e-5)


def test_a_group_repeats_responses_without_repeating_rows(tiny_model):
    group, target = (0, 0, 2, 1, 1), (0.3, 0.3, 2.0, -1.0, -1.0)
    made = examples(tiny_model, 3, k=3, group=group, target=target)
    spelt = [
        replace(
            e,
            responses=tuple(e.responses[m] for m in group),
            log_ref=tuple(e.log_ref[m] for m in group),
            group=(),
        )
        for e in made
    ]
    assert len(Objective(NCA(0.5, 0.4), made, tiny_model).collate(made)["lengths"]) == 9
    one, other = (mean_loss(tiny_model, NCA(0.5, 0.4), data) for data in (made, spelt))
    assert one == pytest.approx(other, rel=1e-6)


def test_many_pairs_of_one_prompt_are_those_pairs_one_by_one(gpt2_model):
    model = in_double(gpt2_model)
    pairs, target, share = ((0, 1), (2, 0), (1, 2)), (0.9, 0.2, 0.5), (0.5, 0.3, 0.2)
    gamma = (0.1, 0.7, 0.0)
    made = examples(model, 4, k=3, pairs=pairs, target=target, share=share, gamma=gamma, weight=2.0)
    single = [
        Example(
            prompt=e.prompt,
            responses=(e.responses[a], e.responses[b]),
            log_ref=(e.log_ref[a], e.log_ref[b]),
            target=(p,),
            gamma=(gamma[a], gamma[b]),
            weight=2.0 * s,
        )
        for e in made
        for (a, b), p, s in zip(pairs, target, share, strict=True)
    ]
    together, apart = (mean_loss(model, DPO(0.5), data) for data in (made, single))
    assert together == pytest.approx(apart, rel=1e-12)


def test_the_margin_is_that_of_the_loss(tiny_model):
    made = examples(tiny_model, 4, target=(1.0,), gamma=(0.9, 0.2))
    expected = math.log1p(math.exp(-0.7))
    assert mean_loss(tiny_model, DPO(0.5), made) == pytest.approx(expected, abs=1e-5)


def test_the_other_order_with_the_other_label_is_the_same_example(tiny_model):
    made = examples(tiny_model, 6, target=(0.8,))
    turned = [
        replace(e, responses=e.responses[::-1], log_ref=e.log_ref[::-1], target=(1.0 - 0.8,))
        for e in made
    ]
    one, other = (mean_loss(in_double(tiny_model), IPO(0.5), data) for data in (made, turned))
    assert one == pytest.approx(other, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "change", "says"),
    [
        (DPO(0.5), {"log_ref": ()}, "log_ref"),
        (DPO(0.5), {"log_ref": (math.nan, 0.0)}, "finite log_ref"),
        (DPO(0.5), {"target": (1.5,)}, "probabilities"),
        (DPO(0.5), {"target": ()}, "1 targets"),
        (DPO(0.5), {"pairs": ((0, 2),)}, "pairs of two of its 2"),
        (DPO(0.5), {"weight": -1.0}, "weight"),
        (DPO(0.5), {"responses": ((5,), ())}, "at least one token"),
        (DPO(0.5), {"responses": ((5,) * 200, (5,))}, "context"),
        (IPO(0.5), {"gamma": (0.1, 0.2)}, "margin"),
        (DPO(0.5), {"sample": 1}, "does not take"),
        (DPO(0.5), {"wins": (0.1, 0.2)}, "does not take"),
        (XPO(0.5, 0.1), {}, "a sample"),
        (XPO(0.5, 0.1), {"sample": 2}, "a sample among its 2"),
        (SPPO(0.5), {}, "wins"),
        (KTO(0.5), {}, "with_mismatched"),
        (NCA(0.5), {}, "2 targets"),
    ],
)
def test_what_a_loss_lacks_or_does_not_take_is_refused(tiny_model, loss, change, says):
    made = examples(tiny_model, 2)
    made[1] = replace(made[1], **change)
    if {"gamma", "wins", "sample"} & set(change):
        made[0] = replace(made[0], **change)
    with pytest.raises(ValueError, match=says):
        Objective(loss, made, tiny_model)


def test_rows_are_cut_where_padding_would_cost_more_than_a_call():
    lengths = [10, 40, 11, 41, 12, 42]
    order = [0, 2, 4, 1, 3, 5]
    assert _cut(order, lengths, math.inf) == [order]
    assert _cut(order, lengths, 1000.0) == [order]
    assert _cut(order, lengths, 20.0) == [[0, 2, 4], [1, 3, 5]]
    assert _cut([0], lengths, 0.0) == [[0]]
    assert [i for part in _cut(order, lengths, 0.0) for i in part] == order


def test_cutting_changes_no_loss(tiny_model):
    made = examples(tiny_model, 12)
    whole, cut = (Objective(DPO(0.5), made, tiny_model) for _ in range(2))
    whole._call_tokens, cut._call_tokens = math.inf, 0.0
    batches = [o.collate(made) for o in (whole, cut)]
    assert [len(b["rows"]["parts"]) for b in batches] == [1, 4]
    with torch.no_grad():
        values = [float(o(tiny_model.model, b)) for o, b in zip((whole, cut), batches, strict=True)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
