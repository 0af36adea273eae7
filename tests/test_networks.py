"""Which networks a model has, which learns, and which one predicts."""

from __future__ import annotations

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from steps import SIDE, build

from mmseg_acl.models.networks import is_semi_supervised, learner, networks_of, predicting, predictor

NETWORKS = {
    'mean_teacher': ['student', 'teacher'],
    'cac': ['student'],
    'cafd': ['focused', 'dispersive'],
    'psmt': ['student', 'teacher'],
    'supervised': ['student'],
}


@pytest.mark.parametrize('method', NETWORKS)
def test_networks_are_named_in_their_order_and_one_of_them_predicts(method):
    model = build(method).eval()
    images = torch.randn(1, 3, SIDE, SIDE)
    assert list(networks_of(model)) == NETWORKS[method]
    assert learner(model) is networks_of(model)[NETWORKS[method][0]]
    assert any(p.requires_grad for p in learner(model).parameters())
    with torch.no_grad():
        usual = predictor(model)
        for name, network in networks_of(model).items():
            torch.manual_seed(1)
            for p in network.parameters():  # so that no two of them agree
                p.add_(0.1 * torch.randn_like(p))
            with predicting(model, name):
                assert predictor(model) is network
                found = model.predict(images)[0].seg_logits.data
                assert torch.equal(found, network.predict(images)[0].seg_logits.data)
        assert predictor(model) is usual


def test_a_model_predicts_as_before_after_an_error_too():
    model = build('mean_teacher')
    with pytest.raises(KeyError), predicting(model, 'student'):
        raise KeyError
    assert model.predict_on == 'teacher'


@pytest.mark.parametrize(
    ('method', 'network', 'message'),
    [
        ('mean_teacher', 'ensemble', "MeanTeacher has no network 'ensemble'; it has student, teacher"),
        ('supervised', 'teacher', "EncoderDecoder has no network 'teacher'; it has student"),
    ],
)
def test_a_network_that_a_model_does_not_have_is_refused(method, network, message):
    with pytest.raises(ValueError, match=message), predicting(build(method), network):
        pass


@pytest.mark.slow
def test_a_wrapped_model_has_the_networks_of_the_model_in_it():
    class Wrapper(MMDistributedDataParallel):
        def __init__(self, module):
            torch.nn.Module.__init__(self)
            self.module = module

    for method in ('mean_teacher', 'supervised'):
        model = build(method)
        wrapped = Wrapper(model)
        assert is_semi_supervised(wrapped) == (method == 'mean_teacher')
        assert networks_of(wrapped) == networks_of(model) and learner(wrapped) is learner(model)
        with predicting(wrapped, 'student'):
            assert predictor(wrapped) is predictor(model) is networks_of(model)['student']
