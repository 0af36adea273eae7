from mmseg_acl.engine.hooks.channels_last_hook import ChannelsLastHook
from mmseg_acl.engine.hooks.mean_teacher_hook import MeanTeacherHook
from mmseg_acl.engine.hooks.progress_hook import ProgressLoggerHook
from mmseg_acl.engine.hooks.refinement_hook import PseudoLabelRefinementHook
from mmseg_acl.engine.hooks.step_seed_hook import StepSeedHook

__all__ = [
    'ChannelsLastHook',
    'MeanTeacherHook',
    'ProgressLoggerHook',
    'PseudoLabelRefinementHook',
    'StepSeedHook',
]
