from __future__ import annotations

import pytest

from rlhf_theory.report.words import formula, interval, pretty


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (-0.5, "−0.5"),
        (0.00123456, "0.001235"),
        (2e-12, "2·10⁻¹²"),
        (-1.5e7, "−1.5·10⁷"),
        (123456, "123\u202f456"),
        (float("nan"), "not a number"),
        (True, "True"),
    ],
)
def test_numbers_are_written_as_people_do(value, text):
    assert pretty(value) == text


def test_an_interval_may_be_unbounded():
    assert interval((float("-inf"), 0.5)) == "−∞ to 0.5"


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("‖v‖_{Σ⁻¹}", "‖v‖<sub>Σ⁻¹</sub>"),
        ("θ̂_MLE", "θ̂<sub>MLE</sub>"),
        ("E_x Cov_{π*}(φ)", "E<sub>x</sub> Cov<sub>π*</sub>(φ)"),
        ("max_a r(a)", "max<sub>a</sub> r(a)"),
        ("Σ_t^{-1}", "Σ<sub>t</sub><sup>-1</sup>"),
        ("C^π* and e^{-n}", "C<sup>π*</sup> and e<sup>-n</sup>"),
        ("batch_size and theta_hat", "batch_size and theta_hat"),
        ("a < b & c", "a &lt; b &amp; c"),
        ("x_{<b>}", "x<sub>&lt;b&gt;</sub>"),
    ],
)
def test_formulas_get_indices_and_exponents(text, page):
    assert str(formula(text)) == page
