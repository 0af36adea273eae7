from mmseg_acl.engine.hooks.checkpoint_hook import AtomicCheckpointHook
from mmseg_acl.engine.hooks.finite_loss_hook import FiniteLossHook
from mmseg_acl.engine.hooks.label_range_hook import LabelRangeHook
from mmseg_acl.engine.hooks.mean_teacher_hook import MeanTeacherHook
from mmseg_acl.engine.hooks.progress_hook import ProgressLoggerHook
from mmseg_acl.engine.hooks.resume_hook import ResumeHook
from mmseg_acl.engine.hooks.step_seed_hook import StepSeedHook
from mmseg_acl.engine.hooks.stop_signal_hook import StopSignalHook

__all__ = [
    'AtomicCheckpointHook',
    'FiniteLossHook',
    'LabelRangeHook',
    'MeanTeacherHook',
    'ProgressLoggerHook',
    'ResumeHook',
    'StepSeedHook',
    'StopSignalHook',
]
