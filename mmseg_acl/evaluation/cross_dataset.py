"""One checkpoint on several test sets, seen and unseen, student and teacher side by side."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS
from prettytable import PrettyTable
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader

from mmseg_acl.datasets.catalogue import POLYP_SETS
from mmseg_acl.datasets.class_data import check_labelled, check_samples, folders_explained, labels_to_check
from mmseg_acl.datasets.polyp import PolypDataset, default_data_root
from mmseg_acl.datasets.polyp_free import CROPS_FOLDER
from mmseg_acl.engine import load_model_weights
from mmseg_acl.engine.best import data_warnings
from mmseg_acl.engine.start.open_files import prepare_open_files
from mmseg_acl.evaluation.map_files import write_map
from mmseg_acl.evaluation.polyp_metric import ImageScore, PolypMetric, foreground_probability
from mmseg_acl.evaluation.result_files import PER_IMAGE, RESULTS, Results, write_results
from mmseg_acl.models.networks import networks_of, predicting


class TestSet(NamedTuple):
    """A test set by its short name: folder below the data root and list of images ('' = all)."""

    folder: str
    ann_file: str


TEST_SETS = {
    **{name: TestSet(polyp_set.folder, f'{name}/test') for name, polyp_set in POLYP_SETS.items()},
    # Polyp-free crops of their test frames, see tools/cut_polyp_free.py.
    **{f'{name}_crops': TestSet(f'{CROPS_FOLDER}/{found.folder}', '') for name, found in POLYP_SETS.items()},
    'synthetic': TestSet('Synthetic/test', ''),
}
# Images of several of them, named by their folders.
JOINT_LIST = 'polyp/test'

# The config's own test set, scored by its own metric; and the name under which its scores stand.
OWN, OWN_METRIC = 'own', 'own metric'


def evaluate_checkpoint(
    config: Config,
    checkpoint: str,
    out_dir: str,
    datasets: Sequence[str] | None = None,
    protocols: Sequence[str] = ('image',),
    networks: Sequence[str] | None = None,
    save_maps: bool = False,
) -> Results:
    """Score a checkpoint and write ``results.json`` and ``per_image.csv`` into ``out_dir``.

    Every image is read once and goes once through each network. Prints a table for each protocol.

    Args:
        config: Config of the model; its test pipeline and data root are used.
        checkpoint: Weights of this model.
        out_dir: Folder of the two files, made if needed.
        datasets: Names from ``TEST_SETS``, or ``'own'`` for the config's ``test_dataloader``. None takes that
            one where it is none of the known sets, else all of those that are present.
        protocols: Protocols of ``PolypMetric``. The own set is scored by the config's ``test_evaluator`` instead,
            where that is another metric.
        networks: Some of the model's networks, such as ``'student'`` and ``'teacher'``. None takes all it has;
            a plain segmentor counts as a student.
        save_maps: Also write the foreground's probability at the mask's size to ``maps/SET/NETWORK/``, as 8-bit
            png, for :func:`mmseg_acl.evaluation.maps.evaluate_maps` and for other programs.

    Returns:
        ``{set: {network: {protocol: {metric: percent}}}}``, which is what ``results.json`` holds.

    Raises:
        FileNotFoundError: A named set, a file of it or the checkpoint is missing.
        ValueError: A name is unknown, no set is present, the model lacks a network, or maps are to be saved of a
            set that is not scored by ``PolypMetric``.
    """
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f"checkpoint '{checkpoint}' does not exist")
    PolypMetric(protocols)  # before the long part, so that an unknown protocol is found at once
    init_default_scope(config.get('default_scope', 'mmseg'))
    if datasets is None and has_own_test_set(config):
        datasets = [OWN]
    if OWN in (datasets or ()) and not config.get('test_evaluator'):
        raise ValueError(
            f"{config.filename} has no test_evaluator: set it, such as test_evaluator=dict(type='PolypMetric')"
        )
    own_metric = OWN in (datasets or ()) and not _is_polyp_metric(config.test_evaluator)
    if save_maps and own_metric:
        raise ValueError(
            "maps are saved of one foreground class, but the config's own test set is scored by "
            f'{config.test_evaluator}: leave maps out, or name one of the test sets {", ".join(TEST_SETS)}'
        )
    loaders = build_loaders(config, datasets)

    model = load_model(config, checkpoint)
    networks = _choose_networks(model, networks)
    metrics = {network: PolypMetric(protocols) for network in networks}

    results: Results = {}
    rows: list[tuple[str, str, ImageScore]] = []
    counts: dict[str, int] = {}
    for name, loader in loaders.items():
        counts[name] = len(loader.dataset)
        if name == OWN and own_metric:
            results[name] = _score_by_own_metric(model, loader, config.test_evaluator, networks)
            continue
        _forward(model, loader, metrics, name, Path(out_dir) / 'maps' / name if save_maps else None)
        results[name] = {}
        for network, metric in metrics.items():
            results[name][network] = metric.compute_protocols(metric.results)
            rows += [(name, network, score) for score in metric.per_image]
            metric.results.clear()

    write_results(Path(out_dir), results, rows)
    done = {protocol for by_network in results.values() for found in by_network.values() for protocol in found}
    print(
        '\n'.join(
            format_table(results, counts, protocol) for protocol in (*protocols, OWN_METRIC) if protocol in done
        )
    )
    if same := _of_equal_weights(model, networks):
        print(
            f'{" and ".join(same)} have equal weights, so their rows are equal: a teacher begins to differ when the '
            'warm-up (model.warmup_iters) has ended, and this checkpoint is from before'
        )
    print(f'written: {Path(out_dir) / RESULTS}, {Path(out_dir) / PER_IMAGE}')
    if OWN in counts and (warnings := data_warnings(config)):
        print('\n'.join(warnings))
    return results


def dataset_to_test(config: Config) -> dict:
    """The config's data set to test on, which says how images are read.

    Raises:
        ValueError: There is none.
    """
    dataset = (config.get('test_dataloader') or {}).get('dataset')
    if not isinstance(dataset, dict):
        raise ValueError(
            f'{config.filename} has no test_dataloader.dataset, which says how images are read: set test_dataloader, '
            'or let it be val_dataloader'
        )
    return dataset


def present_sets(config: Config) -> list[str]:
    """Names from ``TEST_SETS`` whose folders lie under the data root."""
    root = _data_root(config)
    return [name for name, test_set in TEST_SETS.items() if (root / test_set.folder / 'images').is_dir()]


def has_own_test_set(config: Config) -> bool:
    """Whether a config's test set is the user's own, none of ``TEST_SETS`` and no joint list of theirs.

    Another list of known sets, as of a split of one's own, makes it one's own.
    """
    dataset = dataset_to_test(config)
    cls = DATASETS.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
    if not (isinstance(cls, type) and issubclass(cls, PolypDataset)):
        return True
    folder = dataset.get('folder') or cls.FOLDER
    if not folder and (_data_root(config) / 'images').is_dir():
        return True
    lists = {'': JOINT_LIST, **{test_set.folder: test_set.ann_file for test_set in TEST_SETS.values()}}
    return folder not in lists or (dataset.get('ann_file') or '') not in ('', lists[folder])


def load_model(config: Config, checkpoint: str, device: str | None = None) -> nn.Module:
    """The model of a config with the weights of a checkpoint, in eval mode on a device, by default the best there is.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it belongs to another model.
    """
    init_default_scope(config.get('default_scope', 'mmseg'))
    model = MODELS.build(deepcopy(config.model))
    load_model_weights(model, checkpoint)
    # As training lays it out, which on a CPU is a third faster.
    return model.to(device or get_device(), memory_format=torch.channels_last).eval()


def build_loaders(config: Config, names: Sequence[str] | None) -> dict[str, DataLoader]:
    """Data loaders of the named test sets (None: of all that are known and present), every file checked.

    Raises:
        FileNotFoundError: A named set or a file of it is missing.
        ValueError: A name is unknown, or no set is present.
    """
    init_default_scope(config.get('default_scope', 'mmseg'))
    dataset = dataset_to_test(config)
    if 'pipeline' not in dataset and names != [OWN]:
        raise ValueError(
            'test_dataloader.dataset has no pipeline of its own '
            f'(type={dataset.get("type")!r}); give it the one that the test sets are to be read by'
        )
    root, present = _data_root(config), present_sets(config)
    for name in names or ():
        if name not in (*TEST_SETS, OWN):
            raise ValueError(f'test set {name!r} is unknown, there are {", ".join(TEST_SETS)}, {OWN}')
        if name not in (*present, OWN):
            raise FileNotFoundError(
                f"test set {name!r}: there is no folder '{root / TEST_SETS[name].folder}' with "
                'images/ and masks/. Set MMSEG_ACL_DATA to the folder that holds it, or leave the '
                f'set out; present are {", ".join(present) or "none"}'
            )
    if not present and not names:
        raise ValueError(
            f"no test set lies under '{root}': set MMSEG_ACL_DATA to the folder that holds "
            + ', '.join(test_set.folder for test_set in TEST_SETS.values())
        )
    loader = dict(
        batch_size=1,
        num_workers=config.test_dataloader.get('num_workers', 0),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    prepare_open_files(loader['num_workers'], 'test_dataloader.num_workers')
    loaders = {}
    for name in names or present:
        if name == OWN:
            with folders_explained(config.test_dataloader):
                loaders[name] = Runner.build_dataloader(deepcopy(config.test_dataloader))
            check_labelled([loaders[name].dataset], 'images to test on', learns=False)
            continue
        folder, ann_file = TEST_SETS[name]
        # All sets are of this class, whatever class the config's own test set has.
        built = DATASETS.build(
            dict(
                type=PolypDataset,
                data_root=str(root),
                folder=folder,
                ann_file=ann_file,
                test_mode=True,
                pipeline=dataset.pipeline,
            )
        )
        built.full_init()
        loaders[name] = Runner.build_dataloader(dict(loader, dataset=built))
    return loaders


def format_table(results: Results, counts: dict[str, int], protocol: str) -> str:
    """A readable table of one protocol's scores, two decimals."""
    scores = {
        (name, network): by_protocol[protocol]
        for name, by_network in results.items()
        for network, by_protocol in by_network.items()
        if protocol in by_protocol
    }
    metrics = list(dict.fromkeys(key for values in scores.values() for key in values))
    table = PrettyTable(['set', 'network', 'images', *metrics], title=f'protocol {protocol}, percent')
    table.align = 'r'
    table.align['set'] = table.align['network'] = 'l'
    for (name, network), values in scores.items():
        shown = (f'{values[key]:.2f}' if key in values else '' for key in metrics)
        table.add_row([name, network, counts[name], *shown])
    return table.get_string()


def _data_root(config: Config) -> Path:
    return Path(dataset_to_test(config).get('data_root') or default_data_root())


def _is_polyp_metric(evaluator: dict | list[dict]) -> bool:
    """Whether a config's evaluator is ``PolypMetric`` alone."""
    configs = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    return [config['type'] for config in configs] in (['PolypMetric'], [PolypMetric])


@torch.no_grad()
def _score_by_own_metric(
    model: nn.Module, loader: DataLoader, evaluator: dict | list[dict], networks: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of each network on the config's own test set, by its own metric."""
    scores = {}
    for network in networks:
        metric = Evaluator(deepcopy(evaluator))
        metric.dataset_meta = loader.dataset.metainfo
        labels = labels_to_check(loader.dataset)
        with predicting(model, network):
            for batch in track(loader, description=f'{OWN} {network}', total=len(loader)):
                check_samples(labels, batch['data_samples'])
                metric.process(data_samples=model.test_step(batch), data_batch=batch)
        found = metric.evaluate(len(loader.dataset))
        scores[network] = {OWN_METRIC: {key: float(value) for key, value in found.items()}}
    return scores


def _choose_networks(model: nn.Module, asked: Sequence[str] | None) -> Sequence[str]:
    available = list(networks_of(model))
    missing = [name for name in asked or () if name not in available]
    if missing:
        raise ValueError(f'{type(model).__name__} has no network {missing[0]!r}, it has {", ".join(available)}')
    return asked or available


def _of_equal_weights(model: nn.Module, networks: Sequence[str]) -> list[str]:
    """Those of the networks that have the weights of the first one, if there are any."""
    first, *others = (networks_of(model)[name].state_dict() for name in networks)
    same = [
        name
        for name, state in zip(networks[1:], others, strict=True)
        if state.keys() == first.keys() and all(torch.equal(first[key], value) for key, value in state.items())
    ]
    return [networks[0], *same] if same else []


@torch.no_grad()
def _forward(
    model: nn.Module,
    loader: DataLoader,
    metrics: dict[str, PolypMetric],
    name: str,
    maps_dir: Path | None,
) -> None:
    """Fill each network's metric with its results on one set, and write its maps where a folder for them is given."""
    written: set[Path] = set()
    for batch in track(loader, description=f'{name:10s}', total=len(loader)):
        for network, metric in metrics.items():
            with predicting(model, network):
                outputs = [output.to_dict() for output in model.test_step(batch)]
            metric.process(batch, outputs)
            for output in outputs if maps_dir else ():
                file = maps_dir / network / f'{Path(output["img_path"]).stem}.png'
                if file in written:
                    raise ValueError(
                        f'{output["img_path"]}: another image has this name, too, so one map of both is lost'
                    )
                write_map(foreground_probability(output, file.stem), file)
                written.add(file)
