"""The five public polyp data sets: what they are called, which images they have, how large these are."""

from __future__ import annotations

from typing import NamedTuple

from mmseg_acl.datasets.partitions import read_list


class PolypSet(NamedTuple):
    """A public data set.

    Attributes:
        folder: Its folder below the data root.
        lists: Shipped lists that together name all its images.
        size: Width and height of all its images; None where they vary.
        aliases: Folder names it is found under, in lower case, letters and digits only.
    """

    folder: str
    lists: tuple[str, ...]
    size: tuple[int, int] | None
    aliases: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """Names of all its images, without suffix."""
        return frozenset(name for part in self.lists for name in read_list(part))


POLYP_SETS = {
    'kvasir': PolypSet('Kvasir-SEG', ('kvasir/train', 'kvasir/test'), None, ('kvasirseg', 'kvasir')),
    'clinicdb': PolypSet(
        'CVC-ClinicDB', ('clinicdb/train', 'clinicdb/test'), (384, 288), ('cvcclinicdb', 'clinicdb', 'cvc612')
    ),
    'cvc300': PolypSet('CVC-300', ('cvc300/test',), (574, 500), ('cvc300',)),
    'colondb': PolypSet('CVC-ColonDB', ('colondb/test',), (574, 500), ('cvccolondb', 'colondb')),
    'etis': PolypSet(
        'ETIS-LaribPolypDB', ('etis/test',), (1225, 966), ('etislaribpolypdb', 'etislarib', 'etis', 'etislaribdb')
    ),
}
