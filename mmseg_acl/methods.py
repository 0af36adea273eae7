"""The methods, once: grids of experiments, benchmarks, the demo and the tests read this table.

A new method is a class, a row here, a file for each track in ``configs/_base_/methods`` and a folder of leaves.
"""

from __future__ import annotations

from typing import NamedTuple

from mmseg.registry import MODELS


class Method(NamedTuple):
    """A row of the table.

    Attributes:
        name: As tables and figures show it.
        folder: Of its configs below ``configs/``; also the word for it in descriptions of experiments.
        type: Its class, as a config names it.
        unlabelled: Whether it learns from unlabelled images.
        published: Whether the paper's Tables 2 and 3 have it.
    """

    name: str
    folder: str
    type: str
    unlabelled: bool = True
    published: bool = True

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks that are scored, as the class has them; a plain segmentor is its own student."""
        return getattr(MODELS.get(self.type), 'networks', ('student',))


# In the order of the tables' rows.
METHODS = (
    Method('SupOnly', 'supervised', 'EncoderDecoder', unlabelled=False),
    Method('SupOnly (strong)', 'supervised_strong', 'SupervisedEMA', unlabelled=False, published=False),
    Method('SupOnly (plus)', 'supervised_plus', 'SupervisedPlus', unlabelled=False, published=False),
    Method('Mean Teacher', 'mean_teacher', 'MeanTeacher'),
    Method('CAC', 'cac', 'CAC'),
    Method('AEL', 'ael', 'AEL'),
    Method('CAFD', 'cafd', 'CAFD'),
    Method('ELN', 'eln', 'ELN'),
    Method('PSMT', 'psmt', 'PSMT'),
    Method('U2PL', 'u2pl', 'U2PL'),
    Method('FixMatch', 'fixmatch', 'FixMatch', published=False),
    Method('UniMatch', 'unimatch', 'UniMatch', published=False),
    Method('UniMatch V2', 'unimatch_v2', 'UniMatchV2', published=False),
    Method('CorrMatch', 'corrmatch', 'CorrMatch', published=False),
    Method('CPS', 'cps', 'CPS', published=False),
    Method('BCP', 'bcp', 'BCP', published=False),
    Method('ACL-Net', 'aclnet', 'ACLNet'),
    Method('ACL-Net+', 'aclnet_plus', 'ACLNet', published=False),
)
BY_FOLDER = {method.folder: method for method in METHODS}
BY_NAME = {method.name: method for method in METHODS}
