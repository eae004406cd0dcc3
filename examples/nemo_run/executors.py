"""Where a recipe runs. On every node one task starts, which finds its place by examples/launch.sh and starts the node's ranks."""

from __future__ import annotations

from dataclasses import dataclass

import nemo_run as run


@dataclass(frozen=True)
class Place:
    """What the command line says about it; which of it counts depends on the executor."""

    nodes: int
    gpus_per_node: int
    time: str = "4:00:00"
    account: str = ""
    partition: str | None = None
    container: str = ""
    mounts: tuple[str, ...] = ()  # host:container
    workdir: str = ""  # that relative paths of a config start from
    environment: tuple[tuple[str, str], ...] = ()
    node_group: str = ""
    resource_shape: str = ""
    retries: int = 0

    @property
    def variables(self) -> dict[str, str]:
        """What examples/launch.sh reads, and what the user adds."""
        own = {"WORKDIR": self.workdir, "NPROC_PER_NODE": str(self.gpus_per_node or "")}
        return {name: value for name, value in own.items() if value} | dict(self.environment)


def local(place: Place) -> run.LocalExecutor:
    """This machine."""
    return run.LocalExecutor(packager=run.Packager(), env_vars=place.variables)


def slurm(place: Place) -> run.SlurmExecutor:
    """A Slurm cluster whose login node this is; ``container`` wants pyxis. A job that fails is put back into the queue
    ``retries`` times and continues from its latest checkpoint.
    """
    return run.SlurmExecutor(
        account=place.account,
        partition=place.partition,
        time=place.time,
        nodes=place.nodes,
        ntasks_per_node=1,
        gpus_per_node=place.gpus_per_node or None,
        exclusive=True,
        container_image=place.container or None,
        container_mounts=list(place.mounts),
        env_vars=place.variables,
        # A container has no scontrol: where to meet is settled outside.
        setup_lines='export MASTER_ADDR="$head_node_ip" MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))',
        retries=place.retries,
        packager=run.Packager(),
        tunnel=run.LocalTunnel(job_dir=""),
    )


def lepton(place: Place) -> run.LeptonExecutor:
    """NVIDIA DGX Cloud Lepton, which tells each node NNODES, NODE_RANK and MASTER_ADDR; the account is that of ``lep login``."""
    return run.LeptonExecutor(
        container_image=place.container,
        nemo_run_dir="/nemo_run_jobs",
        nodes=place.nodes,
        gpus_per_node=place.gpus_per_node,
        nprocs_per_node=1,
        node_group=place.node_group,
        resource_shape=place.resource_shape,
        mounts=[dict(zip(("path", "mount_path"), mount.split(":", 1), strict=True)) for mount in place.mounts],
        env_vars=place.variables,
        packager=run.Packager(),
    )


EXECUTORS = {"local": local, "slurm": slurm, "lepton": lepton}
