"""The statistics of stored pixels, which the service computes for the images it is sent."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as drawn

from labline.data.storing import pixel_statistics

shapes = st.tuples(st.integers(1, 40), st.integers(1, 24), st.integers(1, 24), st.sampled_from([1, 3]))


@given(drawn.arrays(np.uint8, shapes))
def test_an_image_has_the_same_statistics_alone_as_among_others(images_NHWC: np.ndarray) -> None:
    means, stds = pixel_statistics(images_NHWC)
    for number in range(len(images_NHWC)):
        mean, std = pixel_statistics(images_NHWC[number : number + 1])
        assert (mean[0], std[0]) == (means[number], stds[number]), "drift of inputs must not come from batching"


def test_a_process_that_computes_them_loads_neither_pandas_nor_torch() -> None:
    program = "import sys, labline.data.storing; assert not {'torch', 'pandas', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
