from rlhf_theory.theorems.spread import label_spread
from rlhf_theory.worlds import linear


def test_a_card_shows_the_quantiles_of_the_win_probabilities():
    world = linear(replicas=1)
    low, middle, high = world.summary()["win_probability_quantiles"]
    shown = label_spread(world, " here")
    assert shown == {
        "win probabilities (5 %, 50 %, 95 %) here": f"{low:.2f}, {middle:.2f}, {high:.2f}"
    }


def test_a_card_warns_where_labels_are_nearly_deterministic():
    assert "nearly deterministic" in str(
        label_spread(linear(replicas=1, theta_norm=500.0))["warning"]
    )
