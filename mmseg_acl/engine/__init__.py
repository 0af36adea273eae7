from mmseg_acl.engine import hooks, loops, optim
from mmseg_acl.engine.checkpoint import load_model_weights, read_checkpoint
from mmseg_acl.engine.launch import build_runner, load_config, user_errors
from mmseg_acl.engine.weights import resolve_weights

__all__ = [
    'build_runner',
    'hooks',
    'load_config',
    'load_model_weights',
    'loops',
    'optim',
    'read_checkpoint',
    'resolve_weights',
    'user_errors',
]
