"""Which process of how many this is, as torchrun, mpirun and srun tell it."""

import os
import zlib
from collections.abc import Mapping
from typing import NamedTuple


class Launch(NamedTuple):
    """The place of this process among those that were started together."""
    rank: int = 0
    world: int = 1
    local_rank: int = 0    # on its machine, where it takes the GPU of that number
    local_world: int = 1
    address: str = ""      # tcp://HOST:PORT of the first process; "" = as torchrun says

    @classmethod
    def read(cls, env: Mapping[str, str] = os.environ) -> "Launch":
        """Read the environment; torchrun beats mpirun (Open MPI, or MPICH and Intel MPI), which beats srun.

        Raises:
            ValueError: processes on several machines that are not told where to meet.
        """
        if "RANK" in env and "WORLD_SIZE" in env:
            local = _number(env, "LOCAL_RANK", 0)
            return cls(_number(env, "RANK"), _number(env, "WORLD_SIZE"), local, _number(env, "LOCAL_WORLD_SIZE", local + 1))
        if "OMPI_COMM_WORLD_RANK" in env:
            found = cls(*(_number(env, f"OMPI_COMM_WORLD_{name}") for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")))
            return found._meet(env, "mpirun -x MASTER_ADDR=HOST ...", found.local_world < found.world,
                               env.get("OMPI_MCA_ess_base_jobid") or env.get("PMIX_NAMESPACE", ""))
        if "PMI_RANK" in env and "MPI_LOCALNRANKS" in env:
            found = cls(*(_number(env, name) for name in ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")))
            return found._meet(env, "mpirun -genv MASTER_ADDR HOST ...", found.local_world < found.world, "")
        if "SLURM_STEP_NUM_TASKS" in env and "SLURM_PROCID" in env:  # srun's; a plain python in an sbatch script is one process
            world, nodes = _number(env, "SLURM_STEP_NUM_TASKS"), _number(env, "SLURM_STEP_NUM_NODES", 1)
            local = _number(env, "SLURM_LOCALID", 0)
            here = world if nodes == 1 else max(local + 1, _number(env, "SLURM_NTASKS_PER_NODE", 1))
            return cls(_number(env, "SLURM_PROCID"), world, local, here)._meet(
                env, 'export MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)" before srun', nodes > 1,
                f"{env.get('SLURM_JOB_ID', '')}.{env.get('SLURM_STEP_ID', '')}")
        return cls()

    def _meet(self, env: Mapping[str, str], how: str, several: bool, job: str) -> "Launch":
        """With the address of the first process; on one machine it needs no telling."""
        if self.world == 1:
            return self
        host = env.get("MASTER_ADDR")
        if several and not host:
            raise ValueError(f"{self.world} processes on several machines need the address of the first one, got no "
                             f"MASTER_ADDR; give it: {how}")
        port = _number(env, "MASTER_PORT", 29500 + zlib.crc32(job.encode()) % 1000)  # jobs that share a machine do not meet
        return self._replace(address=f"tcp://{host or '127.0.0.1'}:{port}")


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name, "" if default is None else str(default))
    if not text.isdigit():
        raise ValueError(f'the environment variable {name} should be a number, got "{text}"; '
                         "start with torchrun, mpirun or srun")
    return int(text)
