"""The affinity part of ACL-Net's step: how its time and memory grow."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_acl.benchmarks.measure import Report, extra_memories, matmul_rate, product_flops, seconds
from mmseg_acl.models.heads.acl_head import ACLHead
from mmseg_acl.models.heads.affinity_head import Affinity, AffinityHead
from mmseg_acl.models.heads.caa_head import CAAHead
from mmseg_acl.models.semi.contrast import unit

IN_CHANNELS = 512


class Setting(NamedTuple):
    """Sizes of one measurement; the defaults are what stays fixed while one of them varies."""

    grid: int = 32
    batch: int = 4
    bank: int = 8192
    clusters: int = 10


GROWTH = {
    'grid': (16, 24, 32, 48),
    'batch': (1, 2, 4, 8),
    'bank': (1024, 2048, 4096, 8192, 16384),
    'clusters': (5, 10, 20, 40),
}


class Parts:
    """The heads and their inputs: banks full, clusters there."""

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(0)
        grid, batch, bank, clusters = setting
        self.student_head, self.teacher_head = AffinityHead(IN_CHANNELS), AffinityHead(IN_CHANNELS)
        dim = self.student_head.dim
        self.acl = ACLHead(dim, bank_size=bank, min_keys=bank)
        self.acl.bank.keys.copy_(unit(torch.randn(2, bank, dim)))
        self.acl.bank.fill.fill_(bank)
        self.caa = CAAHead(dim, clusters)
        self.cluster()
        # Smooth, as features are: neighbours are alike and regions connected.
        coarse = torch.randn(batch, IN_CHANNELS, 4, 4)
        self.features = F.interpolate(coarse, size=(grid, grid), mode='bicubic').requires_grad_()
        p_fg = torch.sigmoid(3 * self.features[:, 0].detach().flatten(1))
        self.prob = torch.stack([1 - p_fg, p_fg], dim=-1)
        self.found = [
            Affinity(affinity.map.detach().requires_grad_(), affinity.vectors.detach())
            for affinity in (self.student_head(self.features), self.teach())
        ]
        self.found[0].vectors.requires_grad_()
        self.gradients = [torch.randn_like(tensor) for tensor in self.found[0]]

    def learn(self) -> None:
        """The student's affinity head, forward and backward."""
        torch.autograd.backward(list(self.student_head(self.features)), self.gradients)
        self._forget()

    def teach(self) -> Affinity:
        """The teacher's affinity head."""
        with torch.no_grad():
            return self.teacher_head(self.features)

    def contrast(self) -> None:
        """The contrastive loss and its gradients at the student's affinity; keys are stored."""
        self.acl(*self.found, self.prob)['loss_contrast'].backward()
        self._forget()

    def _forget(self) -> None:
        # Adding to an old gradient would be time that a step does not spend.
        for tensor in (self.features, *self.found[0], *self.student_head.parameters()):
            tensor.grad = None

    def aggregate(self) -> Tensor:
        """Aggregation over clusters."""
        return self.caa(*self.found)

    def cluster(self) -> None:
        """One run of k-means, from the last clusters on."""
        self.caa.update(self.acl.bank, 0)

    def whole(self) -> None:
        """All of it as a step runs it, for its memory."""
        student, teacher = self.student_head(self.features), self.teach()
        loss = self.acl(student, teacher, self.prob)['loss_contrast']
        self.caa(student, teacher)
        loss.backward()


def prepare(setting: Setting) -> Callable[[], None]:
    """Build the run whose memory is measured; a tiny one before loads what libraries load."""
    Parts(Setting(4, 2, 64, 5)).whole()
    return Parts(setting).whole


def exponent(rows: list[dict], key: str, size: str) -> float:
    """The power of ``size`` with which ``key`` grows from the first row to the last."""
    first, last = rows[0], rows[-1]
    return log(last[key] / first[key]) / log(last[size] / first[size])


def run(repeats: int) -> Report:
    """Measure time and extra memory of the affinity part while one size varies at a time."""
    rate = matmul_rate()
    settings = [(name, Setting(**{name: value})) for name in GROWTH for value in GROWTH[name]]
    memory = extra_memories(prepare, [(setting,) for _, setting in settings])
    rows = []
    for (name, setting), mebibytes in zip(settings, memory, strict=True):
        parts = Parts(setting)
        ways = {
            'student, ms': parts.learn,
            'teacher, ms': parts.teach,
            'ACL, ms': parts.contrast,
            'CAA, ms': parts.aggregate,
        }
        found = seconds({**ways, 'k-means, ms': parts.cluster}, repeats)
        rows.append(
            {
                'varied': name,
                'N': setting.grid**2,
                'batch': setting.batch,
                'bank': setting.bank,
                'k': setting.clusters,
                **{way: found[way] * 1e3 for way in ways},
                'all, ms': sum(found[way] for way in ways) * 1e3,
                'arithmetic floor, ms': sum(map(product_flops, ways.values())) / rate / 1e6,
                'k-means, ms': found['k-means, ms'] * 1e3,
                'extra MiB': mebibytes,
                'one map, MiB': setting.batch * setting.grid**4 * 4 / 2**20,
            }
        )
    by_name = {name: [row for row in rows if row['varied'] == name] for name in GROWTH}
    growth = [
        ('all, ms', 'grid', 'N', 2),
        ('extra MiB', 'grid', 'N', 2),
        ('all, ms', 'batch', 'batch', 1),
        ('extra MiB', 'batch', 'batch', 1),
        ('ACL, ms', 'bank', 'bank', 1),
        ('extra MiB', 'bank', 'bank', 1),
        ('k-means, ms', 'clusters', 'k', 1),
    ]
    return Report(
        title='The affinity part of a step, one size varied at a time',
        rows=rows,
        notes=[
            'Power with which it grows, over the whole range and at its upper end: '
            + '; '.join(
                f'{key.split(",")[0]} with {size} {exponent(by_name[name], key, size):.2f}, '
                f'{exponent(by_name[name][-2:], key, size):.2f} (at most {most})'
                for key, name, size, most in growth
            )
            + '.',
            f'Student: affinity head on {IN_CHANNELS} channels, forward and backward; teacher: '
            'forward; ACL: loss, backward and storing of keys; CAA: forward.',
            'k-means runs every 50th step, on 4096 keys; it is not part of "all".',
            'Extra MiB: peak of the whole part beyond its inputs. One map: the (batch, N, N) '
            'float32 tensor of Eq. 1, of which student, teacher and CAA need one each.',
            f'Arithmetic floor: matrix products and convolutions over the measured rate of matrix '
            f'products, {rate:.0f} GFLOP/s.',
        ],
    )
