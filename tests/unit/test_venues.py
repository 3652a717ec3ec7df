from __future__ import annotations

import matplotlib as mpl
import pytest
from tueplots import bundles

from rlhf_theory import venues
from rlhf_theory.plots import style


def test_sizes_are_those_of_the_bundle():
    neurips = venues.venue("neurips2024")
    assert (neurips.column, neurips.text) == (5.5, 5.5)
    icml = venues.venue("icml2024")
    assert (icml.column, icml.text) == (3.25, 6.75)
    bundle = bundles.icml2024(usetex=False)
    with style.venue_theme("icml2024"):
        for name in ("font.size", "axes.labelsize", "legend.fontsize", "xtick.labelsize"):
            assert mpl.rcParams[name] == bundle[name]
        # Fonts stay ours, and no LaTeX is asked for.
        assert mpl.rcParams["font.family"] == ["DejaVu Sans"]
        assert not mpl.rcParams["text.usetex"]


def test_every_name_is_a_venue():
    known = venues.names()
    assert {"neurips2024", "icml2024", "iclr2024", "aistats2025", "jmlr2001"} <= set(known)
    assert not any("dark" in name for name in known)
    for name in known:
        chosen = venues.venue(name)
        assert 2.0 < chosen.column <= chosen.text < 10.0
        assert chosen.settings["font.size"] > 5.0


def test_an_unknown_venue_is_answered_by_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'neurips2024'"):
        venues.venue("neurips_2024")


def test_settings_come_back():
    before = mpl.rcParams["font.size"]
    with style.venue_theme("neurips2024"), style.theme():
        pass
    assert mpl.rcParams["font.size"] == before
    with style.venue_theme() as own:
        assert own.text == 6.75
