"""What the tested tools have imported before they begin, in the process of which tool_process.py forks them.

Besides the package this is what the stack imports only once it is used: torch for the first optimizer, mmengine for
its visualizer, for the text of a config and for its table of versions. That takes as long as a short training.
"""

import gc

import matplotlib.pyplot  # noqa: F401
import setuptools  # noqa: F401
import torch._dynamo  # noqa: F401
import yapf.yapflib.yapf_api  # noqa: F401

import mmseg_acl.engine  # noqa: F401
import mmseg_acl.evaluation  # noqa: F401
import mmseg_acl.visualization  # noqa: F401

# A fork neither looks through what has been imported nor copies it to do so.
gc.freeze()
