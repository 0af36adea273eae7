from mmseg_acl.engine import hooks, loops, optim, optim_constructor
from mmseg_acl.engine.checkpoint import load_model_weights, read_checkpoint
from mmseg_acl.engine.distributed import leave_processes
from mmseg_acl.engine.safe_loading import replace_loaders
from mmseg_acl.engine.start.launch import OptionsAction, build_runner, load_config, train, user_errors
from mmseg_acl.engine.start.weights import resolve_weights

replace_loaders()

__all__ = [
    'OptionsAction',
    'build_runner',
    'hooks',
    'leave_processes',
    'load_config',
    'load_model_weights',
    'loops',
    'optim',
    'optim_constructor',
    'read_checkpoint',
    'resolve_weights',
    'train',
    'user_errors',
]
