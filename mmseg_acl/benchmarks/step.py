"""Whole training steps: ACL-Net and ACL-Net+ against row I of the ablation, Mean Teacher against its floor."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmseg_acl.benchmarks.measure import Report, Spans, extra_memories, matmul_rate, product_flops, seconds
from mmseg_acl.engine import load_config
from mmseg_acl.models.segmentors import ACLNet
from mmseg_acl.models.semi.contrast import unit
from mmseg_acl.models.semi.memory_bank import MemoryBank
from mmseg_acl.shipped import CONFIGS

SUPERVISED, MEAN_TEACHER, ROW_I, ROW_V, PLUS = 'SupOnly', 'Mean Teacher', 'row I', 'row V', 'ACL-Net+'
METHODS = (SUPERVISED, MEAN_TEACHER, ROW_I, ROW_V, PLUS)
# Side of the input: network, data set and partition of the configs, rounds at most.
TRACKS = {128: ('mbv2', 'kvasir_eighth', None), 384: ('r50', 'kvasir_quarter', 2)}
# Labelled images a step, and as many unlabelled ones.
IMAGES = 4
K_MEANS = 'k-means, spread over its interval'
# Parts of row V that row I has, too.
SHARED = (
    'teacher forward',
    'student forward',
    'student backward',
    'mixing, losses',
    'optimizer and EMA',
)
TARGET_TIME, TARGET_MEMORY, TARGET_MEAN_TEACHER = 1.2, 1.15, 1.1


def config_path(method: str, side: int) -> Path:
    """The config that trains ``method`` on the track of this side."""
    network, data, _ = TRACKS[side]
    name = f'{network}_{data}'
    return (
        CONFIGS
        / {
            SUPERVISED: f'supervised/{name}.py',
            MEAN_TEACHER: f'mean_teacher/{name}.py',
            ROW_I: f'aclnet/ablation/{name}_row1.py',
            ROW_V: f'aclnet/ablation/{name}_row5.py',
            PLUS: f'aclnet_plus/{name}.py',
        }[method]
    )


def ready_to_build() -> None:
    """Choose mmseg's registries and keep its log quiet."""
    if DefaultScope.get_current_instance() is None:
        init_default_scope('mmseg')
    # The first logger there is gets a line a parameter from init_weights and from the optimizer.
    if not MMLogger.check_instance_created('benchmark'):
        MMLogger.get_instance('benchmark', log_level='ERROR')


def fill_bank(bank: MemoryBank) -> None:
    """Fill every ring with random keys."""
    keys = torch.randn(bank.keys.shape, generator=torch.Generator().manual_seed(0))
    bank.keys.copy_(unit(keys))
    bank.fill.copy_(torch.tensor(bank.sizes))


def random_weights(config: Any) -> Any:
    """Drop every pre-trained weight that a config of a model names."""
    if isinstance(config, dict):
        if 'checkpoint' in (config.get('init_cfg') or {}):
            config['init_cfg'] = None
        for part in config.values():
            random_weights(part)
    return config


def smooth(generator: torch.Generator, channels: int, side: int) -> Tensor:
    """A smooth random map (channels, side, side) with some noise, in [0, 255]."""
    coarse = torch.rand(1, channels, 6, 6, generator=generator) * 255
    fine = F.interpolate(coarse, size=(side, side), mode='bicubic')[0]
    return (fine + 8 * torch.randn(channels, side, side, generator=generator)).clamp(0, 255)


def random_batch(side: int, images: int) -> dict:
    """Random images by view with random masks, as the collate function gives them."""
    generator = torch.Generator().manual_seed(0)
    meta = dict(img_shape=(side, side), ori_shape=(side, side), pad_shape=(side, side))
    inputs: dict[str, list] = dict(sup=[], unsup_weak=[], unsup_strong=[])
    samples: dict[str, list] = dict(sup=[], unsup_weak=[], unsup_strong=[])
    for _ in range(images):
        for view in inputs:
            inputs[view].append(smooth(generator, 3, side).byte())
        mask = (smooth(generator, 1, side) > 170).long()
        samples['sup'].append(SegDataSample(gt_sem_seg=PixelData(data=mask), metainfo=meta))
        for view in ('unsup_weak', 'unsup_strong'):
            valid = PixelData(data=torch.ones(1, side, side, dtype=torch.bool))
            samples[view].append(SegDataSample(valid=valid, metainfo=meta))
    return dict(inputs=inputs, data_samples=samples)


def labelled_batch(side: int, images: int) -> dict:
    """The labelled view of :func:`random_batch` alone, for a plain segmentor."""
    batch = random_batch(side, images)
    return {key: views['sup'] for key, views in batch.items()}


class Step:
    """A model with its optimizer, in the state of a training that is well on its way.

    Refinement is on, the banks are full, there are clusters.

    Args:
        method: One of the module's names of methods.
        side: Track whose config is used.
        input_side: Side of the images; by default the track's.
        images: Labelled images, and as many unlabelled ones; ``SUPERVISED`` has none of the latter.
    """

    def __init__(
        self,
        method: str,
        side: int,
        input_side: int | None = None,
        images: int = IMAGES,
    ) -> None:
        ready_to_build()
        config = load_config(str(config_path(method, side)))
        torch.manual_seed(0)
        self.model: nn.Module = MODELS.build(random_weights(config.model))
        self.model.init_weights()
        # As the runner does.
        self.model.to(memory_format=torch.channels_last).train()
        self.optimizer = build_optim_wrapper(self.model, config.optim_wrapper)
        input_side = input_side or side
        self.batch = (labelled_batch if method == SUPERVISED else random_batch)(input_side, images)
        self.semi = method != SUPERVISED
        if self.semi:
            self._settle()
        if isinstance(self.model, ACLNet):
            # Far beyond everything that sets in later, and no multiple of an interval.
            self.iteration = self.model.warmup_iters + self.model.refine_after + 1001
            if self.model.acl_head is not None:
                fill_bank(self.model.acl_head.bank)
            if self.model.use_aggregation:
                self.cluster()
        elif self.semi:
            self.iteration = self.model.warmup_iters + self.model.rampup_iters

    @torch.no_grad()
    def _settle(self) -> None:
        """Take the statistics of BatchNorm from the batch, else the teacher's output is flat."""
        norms = [part for part in self.model.student.modules() if isinstance(part, nn.BatchNorm2d)]
        usual = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        views = self.model.data_preprocessor(self.batch, training=True)['inputs']
        self.model.student(torch.cat([views['sup'], views['unsup_strong']]))
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum
        self.model.copy_to_teachers()

    def cluster(self) -> None:
        """Run k-means, which training does every ``caa_head.interval`` iterations."""
        self.model.caa_head.update(self.model.acl_head.bank, 0)

    def anchors(self) -> int:
        """How many anchors the contrastive loss of one more step draws."""
        bank = self.model.acl_head.bank
        before = bank.cursor.clone()
        self.loss()
        return int(((bank.cursor - before) % bank.keys.shape[1]).sum())

    def loss(self) -> Tensor:
        """Total loss of the batch."""
        if self.semi:
            self.model.before_step(self.iteration)
        data = self.model.data_preprocessor(self.batch, training=True)
        return self.model.parse_losses(self.model(**data, mode='loss'))[0]

    def __call__(self) -> None:
        self.optimizer.update_params(self.loss())
        if self.semi:
            self.model.after_step()

    def accumulate(self) -> None:
        """The student's forward and backward pass alone, without an optimizer's step."""
        self.loss().backward()
        self.optimizer.zero_grad()

    def teacher(self) -> None:
        """The teacher's forward pass of Mean Teacher: labelled and weak views together."""
        inputs = self.model.data_preprocessor(self.batch, training=True)['inputs']
        self.model.run_teacher(torch.cat([inputs['sup'], inputs['unsup_weak']]))

    def state(self) -> float:
        """Parameters, buffers and momenta, in MiB."""
        held = [*self.model.parameters(), *self.model.buffers()]
        for values in self.optimizer.optimizer.state.values():
            held += [value for value in values.values() if isinstance(value, Tensor)]
        return sum(tensor.nbytes for tensor in held) / 2**20


def prepare(method: str, side: int, images: int) -> Callable[[], None]:
    """Build the step whose memory is measured; a small one before loads what libraries load."""
    step = Step(method, side, images=images)
    full, step.batch = step.batch, Step(method, side, input_side=64, images=2).batch
    step()
    step.batch = full
    return step


def breakdown(step: Step, rounds: int) -> dict[str, float]:
    """Seconds that the parts of ACL-Net's step take, each in its best round.

    Backward passes run in the reverse order of the forward ones, so moments at which gradients
    arrive at the affinity's inputs and outputs divide them.
    """
    model, spans, moments = step.model, Spans(), {}

    def mark(name: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            moments[name] = time.perf_counter()

        return hook

    def contrast(run: Callable) -> Callable:
        def wrapped(*args: Any) -> Any:
            found = run(*args)
            found['loss_contrast'].register_hook(mark('contrast'))
            return found

        return wrapped

    def affinity(run: Callable) -> Callable:
        def wrapped(features: Tensor, *args: Any) -> Any:
            found = run(features, *args)
            features.register_hook(mark('features'))
            found.map.register_hook(mark('affinity'))
            found.vectors.register_hook(mark('affinity'))
            return found

        return wrapped

    owners = [
        ('teacher forward', model, 'run_teacher'),
        ('student forward', model, 'run_student'),
        ('affinity heads', model.affinity_head, 'forward'),
        ('affinity heads', model.affinity_teacher, 'forward'),
        ('ACL', model.acl_head, 'forward'),
        ('CAA', model.caa_head, 'forward'),
        ('kernel', model.refiner.local, 'forward'),
        ('propagation', model.refiner.local, 'propagate'),
        ('rest of refinement', model.refiner, 'forward'),
        ('optimizer and EMA', model, 'after_step'),
    ]
    for name, owner, method in owners:
        setattr(owner, method, spans.timed(name, getattr(owner, method)))
    model.acl_head.forward = contrast(model.acl_head.forward)
    model.affinity_head.forward = affinity(model.affinity_head.forward)
    losses, after = spans.timed('mixing, losses', step.loss), model.after_step
    optimize = spans.timed('optimizer and EMA', step.optimizer.step)
    cluster = spans.timed(K_MEANS, step.cluster)
    found: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        spans.seconds.clear()
        loss = losses()
        start = time.perf_counter()
        loss.backward()
        end = time.perf_counter()
        spans.seconds['mixing, losses'] += moments['contrast'] - start
        spans.seconds['ACL'] += moments['affinity'] - moments['contrast']
        spans.seconds['affinity heads'] += moments['features'] - moments['affinity']
        spans.seconds['student backward'] += end - moments['features']
        optimize()
        step.optimizer.zero_grad()
        after()
        cluster()
        spans.seconds[K_MEANS] /= model.caa_head.interval
        for name, value in spans.seconds.items():
            found[name].append(value)
    for _, owner, method in owners:
        delattr(owner, method)
    return {name: min(values) for name, values in found.items()}


def run(repeats: int, sides: Sequence[int] = (128,), images: int = IMAGES) -> Report:
    """Measure time and memory of steps, and where ACL-Net's step spends its time."""
    rate = matmul_rate()
    rows, more, notes = [], {}, []
    for side in sides:
        network, _, most = TRACKS[side]
        rounds = min(repeats, most or repeats)
        label = f'{network} {side}'
        steps = {method: Step(method, side, images=images) for method in METHODS}
        half, mean_teacher, full = steps[SUPERVISED], steps[MEAN_TEACHER], steps[ROW_V]
        found = seconds(
            {
                **steps,
                'k-means': full.cluster,
                'teacher': mean_teacher.teacher,
                'half batch': half.accumulate,
            },
            rounds,
        )
        interval = full.model.caa_head.interval
        found[ROW_V] += found['k-means'] / interval
        memory = dict(
            zip(
                steps,
                extra_memories(prepare, [(method, side, images) for method in steps]),
                strict=True,
            )
        )
        for method, step in steps.items():
            whole = memory[method] + step.state()
            rows.append(
                {
                    'track': label,
                    'step': method,
                    'ms': found[method] * 1e3,
                    'to row I': found[method] / found[ROW_I],
                    'arithmetic floor, ms': product_flops(step) / rate / 1e6,
                    'peak, MiB': whole,
                    'of it held, MiB': step.state(),
                    'memory to row I': whole / (memory[ROW_I] + steps[ROW_I].state()),
                }
            )
        parts = breakdown(full, rounds)
        total = sum(parts.values())
        beyond = {name: value for name, value in parts.items() if name not in SHARED}
        more[f'Row V, {label}: where a step spends its time'] = [
            {'part': name, 'ms': value * 1e3, 'share': value / total}
            for name, value in sorted(parts.items(), key=lambda item: -item[1])
        ]
        floor = found[SUPERVISED] + found['teacher'] + found['half batch']
        notes += [
            f'{label}: {row["step"]} takes {row["to row I"]:.3f} of row I (target {TARGET_TIME}) and '
            f'{row["memory to row I"]:.3f} of its memory (target {TARGET_MEMORY}).'
            for row in rows
            if row['track'] == label and row['step'] in (ROW_V, PLUS)
        ]
        notes += [
            f'{label}: row V drew {full.anchors()} anchors, at most {2 * full.model.acl_head.num_anchors}.',
            f'{label}: the parts that row I lacks take {sum(beyond.values()) / total:.1%} of the '
            'step, most of it ' + ' and '.join(sorted(beyond, key=beyond.get, reverse=True)[:2]) + '.',
            f'{label}: Mean Teacher takes {found[MEAN_TEACHER] / floor:.3f} of its floor, '
            f'{floor * 1e3:.0f} ms (target {TARGET_MEAN_TEACHER}): a step on {images} labelled '
            f'images {found[SUPERVISED] * 1e3:.0f}, the teacher on {2 * images} '
            f'{found["teacher"] * 1e3:.0f}, the student forward and backward on {images} more '
            f'{found["half batch"] * 1e3:.0f}.',
        ]
    return Report(
        title=f'Training steps on {images} labelled and {images} unlabelled images',
        rows=rows,
        more=more,
        notes=[
            *notes,
            f'SupOnly has the {images} labelled images alone. Weights and images are random. Row V is in '
            'full swing: full banks, clusters, refinement on; its share of k-means is included.',
            'Peak: what the step needs beyond its model, plus parameters, buffers and momenta.',
            f'Arithmetic floor: matrix products and convolutions over the measured rate of matrix '
            f'products, {rate:.0f} GFLOP/s; convolutions done by Winograd can pass it.',
        ],
    )
