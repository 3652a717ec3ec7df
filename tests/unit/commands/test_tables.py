import numpy as np
import pandas as pd

from rlhf_theory.commands.tables import aligned, frame_text


def test_rows_are_aligned_below_their_head():
    assert aligned([["x", "long"], ["1", "2"]]) == "x  long\n-  ----\n1  2"


def test_numbers_of_frames_have_four_digits_and_the_rest_is_text():
    frame = pd.DataFrame({"name": ["a"], "value": [1 / 3], "n": [12345], "none": [None]})
    assert frame_text(frame).splitlines()[2] == "a     0.3333  12345  None"
    assert frame_text(pd.DataFrame({"v": [np.inf]})).splitlines()[2] == "inf"
