"""Every method's training steps come to the losses that they came to before the models were tidied up."""

from __future__ import annotations

import json

import pytest
from golden_steps import CASES, GOLDEN, STEPS, golden

QUICK = ('Mean Teacher', 'ACL-Net')  # the rest is for `make test`
EXPECTED = json.loads(GOLDEN.read_text(encoding='utf-8'))


@pytest.mark.slow
@pytest.mark.trained(stored=True)
@pytest.mark.parametrize(
    'case', [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_the_losses_of_the_first_steps_stay_as_they_were(case):
    found = golden(case)
    assert len(found) == len(EXPECTED[case]) == STEPS
    for step, expected in zip(found, EXPECTED[case], strict=True):
        assert step == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_every_loss_of_every_method_acts_in_the_golden_steps():
    assert EXPECTED.keys() == CASES.keys()
    for case, history in EXPECTED.items():
        acting = {key for step in history for key, value in step.items() if abs(value) > 1e-6}
        assert {key for step in history for key in step if 'loss' in key} <= acting, case
