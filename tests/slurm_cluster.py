"""A cluster of Slurm with one node, this machine, in a folder of its own.

It needs Debian's packages ``slurm-wlm`` and ``munge``, and none of their services: munged, slurmctld and slurmd are
started here with a configuration, key, state and logs in a temporary folder, talk over the loopback interface on free
ports, and are stopped by their process numbers. It needs no rights of root and no cgroups, as a container has none::

    python tests/slurm_cluster.py sinfo

runs a command where ``sbatch`` and the others talk to the cluster, and stops the cluster when the command ends.
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'squeue', 'scancel', 'scontrol', 'sinfo')
# Debian has the services' programs where only root looks for programs.
SEARCHED = os.pathsep.join((os.environ.get('PATH', os.defpath), '/usr/sbin', '/sbin'))
PATIENCE = 60.0  # seconds until a service answers

# cred_expire: a requeued job waits as long as a credential is valid, by default two minutes.
# proctrack/pgid, task/none, no accounting of jobs and no cgroups: nothing that only root of a whole machine has.
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=30
MinJobAge=300
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """Which of the programs of Slurm and MUNGE this machine lacks."""
    return [name for name in PROGRAMS if not shutil.which(name, path=SEARCHED)]


class SlurmCluster:
    """A running cluster; a context manager, which stops it.

    Attributes:
        environment: Where ``sbatch`` and the others find it.
        cpus: How many cores its node says it has; one more than jobs need would be taken for free.
    """

    def __init__(self, cpus: int = 2) -> None:
        self._holder = tempfile.TemporaryDirectory(prefix='slurm_')
        self.folder = Path(self._holder.name)
        self.cpus = cpus
        self._services: list[subprocess.Popen] = []
        self.environment = dict(os.environ, PATH=SEARCHED, SLURM_CONF=str(self.folder / 'slurm.conf'))

    def __enter__(self) -> SlurmCluster:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def call(self, *words: str) -> str:
        """What a command such as ``scontrol`` prints.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        done = subprocess.run(
            words, env=self.environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return done.stdout.strip()

    @property
    def node(self) -> str:
        """Name of the one node."""
        return socket.gethostname().split('.')[0]

    def stop(self) -> None:
        """Cancel what runs, and stop the services, the last one first."""
        if len(self._services) == 3:
            subprocess.run(
                ['scancel', '--user', getpass.getuser()], env=self.environment, stderr=subprocess.DEVNULL, check=False
            )
            self._wait(lambda: not self.call('squeue', '--noheader'), 'the jobs did not end')
        for service in reversed(self._services):
            service.send_signal(signal.SIGTERM)
            service.wait()
        self._services.clear()
        self._holder.cleanup()

    def _start(self) -> None:
        folder = self.folder
        folder.chmod(0o711)  # or munged refuses to have its socket there
        for name in ('state', 'spool'):
            (folder / name).mkdir()
        (folder / 'plugstack.conf').touch()
        # Slurm 22.05 has plugins for cgroups alone; that of version 1 asks for nothing until it is used.
        version = re.search(r'(\d+)\.(\d+)', self.call('slurmd', '-V'))
        plugin = 'disabled' if tuple(map(int, version.groups())) >= (23, 11) else 'cgroup/v1'
        (folder / 'cgroup.conf').write_text(f'CgroupPlugin={plugin}\n')
        key = folder / 'munge.key'
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        ports = _free_ports(2)
        (folder / 'slurm.conf').write_text(
            CONFIGURATION.format(
                host=self.node,
                folder=folder,
                user=getpass.getuser(),
                controller_port=ports[0],
                node_port=ports[1],
                cpus=self.cpus,
                memory=1024,
            )
        )
        files = dict(socket='munge.socket', **{'pid-file': 'munged.pid', 'log-file': 'munged.log'})
        files.update({'key-file': 'munge.key', 'seed-file': 'munged.seed'})
        self._serve('munged', '--foreground', *(f'--{name}={folder / file}' for name, file in files.items()))
        self._wait((folder / 'munge.socket').exists, 'munged does not listen')
        self._serve('slurmctld', '-D', '-i')
        self._serve('slurmd', '-D', '-N', self.node)
        self._wait(lambda: 'idle' in self._try('sinfo', '--noheader', '--format=%T'), 'the node is not idle')

    def _serve(self, *words: str) -> None:
        with (self.folder / f'{words[0]}.said').open('wb') as said:
            self._services.append(
                subprocess.Popen(
                    words, env=self.environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=self.folder
                )
            )

    def _try(self, *words: str) -> str:
        try:
            return self.call(*words)
        except subprocess.CalledProcessError:
            return ''

    def _wait(self, ready, fault: str) -> None:
        end = time.monotonic() + PATIENCE
        while not ready():
            dead = [service for service in self._services if service.poll() is not None]
            if dead or time.monotonic() > end:
                names = ('munged', 'slurmctld', 'slurmd')
                logs = [self.folder / f'{name}.{kind}' for name in names for kind in ('said', 'log')]
                told = '\n'.join(f'{log.name}: {log.read_text()[-1500:]}' for log in logs if log.exists())
                raise RuntimeError(f'{fault}; ended: {[service.args for service in dead]}\n{told}')
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens to; all are held until the last is known, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(('127.0.0.1', 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def main() -> None:
    if missing := missing_programs():
        sys.exit(f'error: there is no {", ".join(missing)} here; on Debian: apt-get install slurm-wlm munge')
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # through the end of the block below
    with SlurmCluster() as cluster:
        done = subprocess.run(sys.argv[1:] or ['sinfo'], env=cluster.environment, check=False)
    sys.exit(done.returncode)


if __name__ == '__main__':
    main()
