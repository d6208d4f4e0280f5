import pytest

from tools.launch import Launch

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "n0", "MASTER_PORT": "1"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "6", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "2",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
MPICH = {"PMI_RANK": "6", "PMI_SIZE": "8", "MPI_LOCALRANKID": "2", "MPI_LOCALNRANKS": "4"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}
SRUN = {**BATCH, "SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "4"}
SEVERAL = {"mpirun": OPEN_MPI, "mpich": MPICH, "srun": SRUN}
ONE_MACHINE = {"mpirun": {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "6"},
               "mpich": {**MPICH, "MPI_LOCALNRANKS": "8", "MPI_LOCALRANKID": "6"},
               "srun": {**SRUN, "SLURM_STEP_NUM_NODES": "1", "SLURM_LOCALID": "6"}}


def test_a_plain_process_is_alone():
    assert Launch.read({}) == Launch(rank=0, world=1, local_rank=0, local_world=1, address="")


def test_torchrun_is_left_to_torch():
    assert Launch.read(TORCHRUN) == Launch(5, 8, 1, 4, address="")


def test_torchrun_started_by_another_goes_first():
    assert Launch.read({**OPEN_MPI, **SRUN, **TORCHRUN}) == Launch.read(TORCHRUN)


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_machines_meet_where_they_are_told(kind):
    launch = Launch.read({**SEVERAL[kind], "MASTER_ADDR": "n0", "MASTER_PORT": "1234"})
    assert launch == Launch(6, 8, 2, 4, "tcp://n0:1234")


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_machines_that_are_not_told_where_to_meet_fail(kind):
    with pytest.raises(ValueError, match=r"8 processes on several machines.*no MASTER_ADDR; give it: ") as error:
        Launch.read(SEVERAL[kind])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ONE_MACHINE)
def test_one_machine_meets_itself(kind):
    launch = Launch.read(ONE_MACHINE[kind])
    assert launch[:4] == (6, 8, 6, 8) and launch.address.startswith("tcp://127.0.0.1:")
    first = {name: "0" if name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID") else value
             for name, value in ONE_MACHINE[kind].items()}
    other = Launch.read(first)
    assert other.rank == 0
    assert launch.address == other.address  # the same in all processes


def test_jobs_that_share_a_machine_do_not_meet():
    first, second = (Launch.read({**ONE_MACHINE["srun"], "SLURM_JOB_ID": job}) for job in ("7", "8"))
    assert first.address != second.address


def test_a_plain_process_in_a_batch_script_is_alone():
    assert Launch.read(BATCH) == Launch()


def test_a_single_task_needs_no_address():
    assert Launch.read({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}).world == 1


@pytest.mark.parametrize("text", ["", "two", "-1"])
def test_a_number_that_is_none_is_told(text):
    with pytest.raises(ValueError, match=f'WORLD_SIZE should be a number, got "{text}"'):
        Launch.read({**TORCHRUN, "WORLD_SIZE": text})
