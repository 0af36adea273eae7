"""The config as a run keeps it: what it reads and no more, formatted once."""

from __future__ import annotations

from mmengine.config import Config

from mmseg_acl.engine.best import DATA_WARNINGS
from mmseg_acl.engine.export import dataset_of_frames
from mmseg_acl.engine.start.config_checks import RUN_KEYS

# What is read of a config that a run has left: by mmseg's own tools, by grids of experiments, where scores are said.
KEPT = {'tta_model', 'tta_pipeline', 'numerics', DATA_WARNINGS}


class RunConfig(Config):
    """A config without the variables that its file had for itself.

    mmengine formats a config anew for the log, for the work dir, for each visualizer and for every checkpoint, which
    takes longer than building a small model. Here the text is kept for as long as the content is the same.
    """

    _formatted = ('', '')  # content and text of the last one; a process trains one run

    @classmethod
    def of(cls, config: Config) -> RunConfig:
        """The part of ``config`` that a run reads."""
        content = {key: value for key, value in config.to_dict().items() if key in RUN_KEYS | KEPT}
        if pipeline := dataset_of_frames(config).get('pipeline'):
            content['test_pipeline'] = pipeline  # where mmseg's inference looks for it
        return cls(content, cfg_text=config.text, filename=config.filename, env_variables=config.env_variables)

    @property
    def pretty_text(self) -> str:
        """The config as Python code."""
        content = repr(self.to_dict())
        if RunConfig._formatted[0] != content:
            RunConfig._formatted = content, super().pretty_text
        return RunConfig._formatted[1]
