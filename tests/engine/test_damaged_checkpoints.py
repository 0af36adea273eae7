"""Files that are cut, changed or made up: none is read as something else, and each message names its file."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from mmseg_acl.engine import load_model_weights, read_checkpoint
from mmseg_acl.engine.checkpoint import check_numbers, is_finite
from mmseg_acl.engine.start.resume import last_whole_checkpoint

TRIES = 400


def checkpoint() -> dict:
    """What a run of mmengine stores, in small."""
    return dict(
        meta=dict(iter=3, epoch=0, seed=0, cfg='a = dict(b=1)\n', time='20260101_000000'),
        state_dict={'weight': torch.arange(6.0).reshape(2, 3), 'bias': torch.ones(2)},
        message_hub=dict(
            log_scalars={'train/loss': HistoryBuffer([1.0, 2.0], [1, 1])},
            runtime_info=dict(last_ckpt='/a/iter_3.pth', iter=3),
            resumed_keys={'train/loss': True},
        ),
        optimizer=dict(
            state={0: dict(momentum_buffer=torch.ones(2, 3))},
            param_groups=[dict(lr=0.1, initial_lr=0.1, params=[0, 1])],
        ),
        param_schedulers=[dict(end=8, power=0.9, _step_count=3)],
    )


def save(path: Path, content: object, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """A file cut, changed in a few places or over a stretch, with bytes left out or put in, or random ones."""
    place, length = int(random.integers(len(data))), int(random.integers(1, 64))
    kind = random.integers(6)
    if kind == 0:
        return data[:place]
    if kind == 1:
        changed = bytearray(data)
        for position in random.integers(len(data), size=random.integers(1, 5)):
            changed[position] = random.integers(256)
        return bytes(changed)
    if kind == 2:
        return data[:place] + random.bytes(length) + data[place + length :]
    if kind == 3:
        return data[:place] + data[place + length :]
    if kind == 4:
        return data[:place] + random.bytes(length) + data[place:]
    return data[: int(random.integers(12))] + random.bytes(length)


@pytest.mark.slow
@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'old format'])
def test_no_damage_escapes(tmp_path, zipped):
    """Whatever is read of a damaged file, it ends in a message with its name, or in the very numbers it had."""
    data = save(tmp_path / 'whole.pth', checkpoint(), zipped).read_bytes()
    random, path, refused = np.random.default_rng(0), tmp_path / 'iter_3.pth', 0
    for number in range(TRIES):
        path.write_bytes(damaged(data, random))
        for read in (
            lambda: last_whole_checkpoint(tmp_path),
            lambda: load_model_weights(nn.Linear(3, 2), path),
            lambda: load_checkpoint(nn.Linear(3, 2), str(path)),  # mmengine's own: load_from, init_cfg
        ):
            try:
                found = read()
            except ValueError as error:
                assert 'iter_3.pth' in str(error) and '\n' not in str(error), (number, error)
                refused += 1
            else:
                if zipped and found is not None and hasattr(found, 'content'):
                    state = found.content['state_dict']
                    assert all(torch.equal(state[name], value) for name, value in checkpoint()['state_dict'].items())
    assert refused > (2.5 if zipped else 1) * TRIES


@pytest.mark.slow
def test_damage_in_the_pickle_of_an_intact_archive_does_not_escape(tmp_path):
    """As a program writes that has a defect: all checksums fit, so that only what is read can be judged."""
    whole = io.BytesIO()
    torch.save(checkpoint(), whole)
    random, path, refused = np.random.default_rng(1), tmp_path / 'iter_3.pth', 0
    with zipfile.ZipFile(whole) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    for number in range(TRIES):
        with zipfile.ZipFile(path, 'w') as archive:
            for name, data in parts.items():
                archive.writestr(name, damaged(data, random) if name.endswith('data.pkl') else data)
        for read in (lambda: last_whole_checkpoint(tmp_path), lambda: load_model_weights(nn.Linear(3, 2), path)):
            try:
                read()
            except ValueError as error:
                assert 'iter_3.pth' in str(error), (number, error)
                refused += 1
    assert refused > TRIES


MADE_UP = {
    'empty': b'',
    'a pickle of nothing': b'\x80\x02.',
    'a stop alone': b'.',
    'text that is no UTF-8': b'\x80\x02X\x04\x00\x00\x00\xff\xfe\xff\xfe.',
    'a picture': b'\x89PNG\r\n\x1a\n' + bytes(40),
    'the head of an archive': b'PK\x03\x04' + bytes(40),
    'a list': [torch.zeros(2)],
    'a tensor': torch.zeros(2),
    'nothing': None,
    'state_dict a list': {'state_dict': []},
    'state_dict a tensor': {'state_dict': torch.zeros(2)},
    'meta a list': {'meta': []},
    'meta a text': {'meta': 'iter 3'},
    'meta without an iteration': {'meta': {}},
    'an iteration that is a text': {'meta': dict(iter='3', epoch=0)},
    'numbers for names': {'state_dict': {1: torch.zeros(2)}},
    'message_hub a list': {'message_hub': []},
    'scalars a list': {'message_hub': dict(log_scalars=[])},
    'optimizer a list': {'optimizer': []},
    'optimizer without groups': {'optimizer': dict(state={})},
    'groups that are texts': {'optimizer': dict(state={}, param_groups=['a'])},
    'momenta that are NaN': {
        'optimizer': dict(state={0: dict(momentum_buffer=torch.full((2, 3), float('nan')))}, param_groups=[])
    },
    'param_schedulers a text': {'param_schedulers': 'PolyLR'},
    'schedules that are texts': {'param_schedulers': ['PolyLR']},
}


@pytest.mark.parametrize('kind', MADE_UP)
@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'old format'])
def test_a_made_up_newest_checkpoint_is_left_out(tmp_path, monkeypatch, kind, zipped):
    said = []
    monkeypatch.setattr('mmseg_acl.engine.start.resume.print_log', lambda text, **_: said.append(text))
    content, newest = MADE_UP[kind], tmp_path / 'iter_4.pth'
    if isinstance(content, bytes):
        newest.write_bytes(content)
    else:
        save(newest, {**checkpoint(), **content} if isinstance(content, dict) else content, zipped)
    older = save(tmp_path / 'iter_3.pth', checkpoint(), zipped)
    assert last_whole_checkpoint(tmp_path).path == older
    assert 'NOT resumed from the newest' in said[0] and 'iter_4.pth' in said[0]


def test_changed_numbers_are_found_wherever_a_checkpoint_is_read(tmp_path):
    """torch itself reads over them."""
    path = save(tmp_path / 'a.pth', nn.Linear(3, 2).state_dict())
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('data/0'))
        bytes_of_part = archive.read(name)
    data = bytearray(path.read_bytes())
    data[data.index(bytes_of_part)] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match=r'a\.pth is damaged: the checksum of .*data/0 does not fit'):
        read_checkpoint(path)


def test_a_file_written_without_checksums_is_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / 'a.pth', nn.Linear(3, 2).state_dict())
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_checkpoint(path).keys() == {'weight', 'bias'}


# ------------------------------------------------------------------ numbers


class Masked(nn.Module):
    """With a mask as attention has it, a running minimum, and numbers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.wave = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        self.small = nn.Parameter(torch.ones(2, dtype=torch.float16))
        self.register_buffer('mask', torch.full((3, 3), float('-inf')).triu(1))
        self.register_buffer('lowest', torch.full((2,), float('inf')))
        self.register_buffer('count', torch.tensor(3))
        self.register_buffer('seen', torch.tensor([True, False]))


def of(name: str, value: Tensor) -> dict[str, Tensor]:
    return {**Masked().state_dict(), name: value}


def test_what_a_model_is_made_with_is_as_it_should_be():
    check_numbers(Masked().state_dict(), 'a.pth', Masked())
    check_numbers(of('lowest', torch.tensor([0.5, float('inf')])), 'a.pth', Masked())
    check_numbers(of('linear.weight', torch.ones(2, 3, dtype=torch.bfloat16)), 'a.pth', Masked())
    check_numbers(of('small', torch.full((2,), 6e4, dtype=torch.float16)), 'a.pth', Masked())  # its sum is infinite
    check_numbers({'of no model': torch.tensor([1e38, 3e38])}, 'a.pth', Masked())


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('linear.weight', torch.full((2, 3), float('nan')), r'linear\.weight has NaN \(6 of its 6 entries\)'),
        ('linear.bias', torch.tensor([1.0, float('inf')]), r'linear\.bias has infinite numbers \(1 of its 2'),
        ('linear.bias', torch.tensor([1.0, float('-inf')]), r'linear\.bias has infinite numbers'),
        ('linear.bias', torch.tensor([1.0, 1e300], dtype=torch.float64), 'has infinite numbers'),
        ('linear.bias', torch.tensor([1.0, float('nan')], dtype=torch.float16), 'linear.bias has NaN'),
        ('linear.weight', torch.ones(2, 3, dtype=torch.complex64), r'has complex numbers \(torch.complex64\)'),
        ('wave', torch.full((2,), complex(float('nan'), 0)), 'wave has NaN'),
        ('mask', torch.full((3, 3), float('-inf')), r'mask has infinite numbers \(6 of its 9'),
        ('mask', torch.full((3, 3), float('nan')), 'mask has NaN'),
        ('lowest', torch.tensor([0.5, float('nan')]), 'lowest has NaN'),
        ('linear.bias', torch.ones(2).to_sparse(), 'is no plain tensor .*sparse'),
        ('linear.bias', torch.ones(2, device='meta'), 'is no plain tensor .*meta'),
    ],
)
def test_what_is_no_number_is_named(name, value, message):
    with pytest.raises(ValueError, match=f'a.pth cannot be used: .*{message}.*take a checkpoint from before'):
        check_numbers(of(name, value), 'a.pth', Masked())


def test_weights_that_are_no_numbers_are_not_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr('mmseg_acl.engine.start.resume.print_log', lambda *_, **__: None)
    state = {**checkpoint()['state_dict'], 'weight': torch.full((2, 3), float('nan'))}
    broken = save(tmp_path / 'iter_4.pth', {**checkpoint(), 'state_dict': state})
    save(tmp_path / 'iter_3.pth', checkpoint())
    made = lambda: nn.Linear(3, 2)  # noqa: E731
    assert last_whole_checkpoint(tmp_path, fresh_model=made).path.name == 'iter_3.pth'
    (tmp_path / 'iter_3.pth').unlink()
    with pytest.raises(ValueError, match=f'{broken} cannot be used: weight has NaN'):
        last_whole_checkpoint(tmp_path, fresh_model=made)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.float8_e5m2, torch.complex64])
def test_finite_numbers_of_any_kind(dtype):
    assert is_finite(torch.full((4,), 5e4).to(dtype)), 'their sum need not be finite'
    assert not is_finite(torch.tensor([1.0, float('nan')]).to(dtype))
