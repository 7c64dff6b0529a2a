"""Two processes (gloo) are one process with the joint batch: loss, averaged gradients, BatchNorm, shuffled keys."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vicc.batch import Batch
from vicc.methods.batchnorm import encode_shuffled, synchronize_batchnorm
from vicc.methods.coclr import CoCLR
from vicc.methods.configs import EncoderConfig
from vicc.methods.cross_stream import CrossStream
from vicc.methods.encoder import Encoder
from vicc.methods.infonce import InfoNCE
from vicc.methods.single_stream import SingleStream
from vicc.methods.task import Task
from vicc.methods.ubernce import UberNCE

VIDEOS = 6
CONTRAST = ("single contrast", "cross contrast", "single memory", "cross memory")
METHODS = ("single", "cross", "infonce", "ubernce", "coclr", *CONTRAST)


def encoder(stream: str) -> Encoder:
    return Encoder(EncoderConfig(stream, backbone="s3d-demo", embedding_dim=8, clip_frames=8, size=32))  # type: ignore[arg-type]


def build(method: str) -> Task:
    """The same weights in every process and in the single one."""
    torch.manual_seed(0)
    queue = {"queue_length": 12}
    contrast = {"swap_weight": 0.0, "contrast_weight": 2.0}
    memory = {**contrast, "contrast_memory": 10}
    tasks: dict[str, Callable[[], Task]] = {
        "single": lambda: SingleStream(encoder("rgb"), num_prototypes=5),
        "cross": lambda: CrossStream(encoder("rgb"), encoder("flow"), num_prototypes=(5, 3)),
        "infonce": lambda: InfoNCE(encoder("rgb"), **queue),  # type: ignore[arg-type]
        "ubernce": lambda: UberNCE(encoder("rgb"), **queue),  # type: ignore[arg-type]
        "coclr": lambda: CoCLR(encoder("rgb"), encoder("flow"), **queue),
        "single contrast": lambda: SingleStream(encoder("rgb"), **contrast),  # type: ignore[arg-type]
        "cross contrast": lambda: CrossStream(encoder("rgb"), encoder("flow"), **contrast),
        "single memory": lambda: SingleStream(encoder("rgb"), **memory),  # type: ignore[arg-type]
        "cross memory": lambda: CrossStream(encoder("rgb"), encoder("flow"), **memory),
    }
    task = tasks[method]().double().train()
    synchronize_batchnorm(task, torch.device("cpu"))
    return task


def batch(part: slice = slice(None)) -> Batch:
    generator = torch.Generator().manual_seed(3)
    clips = {
        stream: torch.randn(VIDEOS, 2, channels, 8, 32, 32, generator=generator, dtype=torch.float64)[part]
        for stream, channels in (("rgb", 3), ("flow", 2))
    }
    numbers = torch.arange(VIDEOS)[part]
    return Batch(clips, numbers, label=numbers % 2, recording=numbers // 2)  # type: ignore[arg-type]


def two_steps(task: Task, part: slice) -> dict[str, Any]:
    """Two forward passes, so that queues and running statistics take part; then the gradients of the second."""
    for _ in range(2):
        task.zero_grad()
        task.before_step()
        outputs = task(batch(part), 0)
    outputs["loss"].backward()
    return {
        "loss": outputs["loss"].item(),
        "gradients": {name: weight.grad for name, weight in task.named_parameters() if weight.grad is not None},
        "statistics": {name: value for name, value in task.named_buffers() if "running" in name},
        "queue": past_keys(task),
    }


def past_keys(task: Task) -> torch.Tensor | None:
    """What is the same in every process: a queue of keys, a memory of a contrast."""
    if isinstance(task, InfoNCE):
        return task.queue.columns["key"]
    memory = task.contrast.memory if isinstance(task, SingleStream) and task.contrast is not None else None
    return None if memory is None else memory.filled("key")


def run_rank(rank: int, port: int, work: Callable[[int], Any], results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    results[rank] = work(rank)
    dist.barrier()
    dist.destroy_process_group()


def in_two_processes(work: Callable[[int], Any]) -> list[Any]:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)  # finds a free port
    port = store.port
    del store
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.start_processes(run_rank, args=(port, work, results), nprocs=2, start_method="forkserver")
        return [results[rank] for rank in range(2)]


def rank_part(rank: int) -> slice:
    return slice(rank * VIDEOS // 2, (rank + 1) * VIDEOS // 2)


def train_all(rank: int) -> dict[str, Any]:
    """What a rank finds with its half of the batch, for every method."""
    results = {}
    for method in METHODS:
        found = two_steps(build(method), rank_part(rank))
        # As arrays: tensors shared between processes end with the process that made them.
        arrays = {key: {n: t.numpy() for n, t in found[key].items()} for key in ("gradients", "statistics")}
        queue = None if found["queue"] is None else found["queue"].numpy()
        results[method] = {**found, **arrays, "queue": queue}
    return results


@pytest.fixture(scope="module")
def trained() -> list[dict[str, Any]]:
    """All methods in one pair of processes, since starting it takes longer than all of them."""
    return in_two_processes(train_all)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_compute_what_one_computes_with_the_joint_batch(
    method: str, trained: list[dict[str, Any]]
) -> None:
    alone = two_steps(build(method), slice(None))
    ranks = [results[method] for results in trained]
    # ViCC's targets are float32, whose last digit may differ.
    close = {"rtol": 1e-6, "atol": 1e-6} if method in ("single", "cross") else {"rtol": 1e-9, "atol": 1e-10}
    assert sum(rank["loss"] for rank in ranks) / 2 == pytest.approx(alone["loss"], rel=close["rtol"])
    assert alone["gradients"].keys() == ranks[0]["gradients"].keys()
    for name, gradient in alone["gradients"].items():
        mean = sum(torch.from_numpy(rank["gradients"][name]) for rank in ranks) / 2
        torch.testing.assert_close(mean, gradient, **close)
    for name, statistic in alone["statistics"].items():
        for rank in ranks:
            torch.testing.assert_close(torch.from_numpy(rank["statistics"][name]), statistic, rtol=1e-9, atol=1e-12)
    if alone["queue"] is not None:
        for rank in ranks:
            torch.testing.assert_close(torch.from_numpy(rank["queue"]), alone["queue"], rtol=1e-9, atol=1e-12)


def shuffle(rank: int) -> tuple[Any, list[bool]]:
    """Embeddings of a rank's clips, and for each clip it encoded whether it was its own."""
    module = build("infonce").encoder.eval()
    torch.manual_seed(100 + rank)  # ranks need not agree on random numbers
    clips = batch(rank_part(rank)).clips["rgb"][:, 0]
    seen: list[torch.Tensor] = []
    module.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    embeddings = encode_shuffled(module, clips)
    return embeddings.numpy(), [any(torch.equal(clip, mine) for mine in clips) for clip in seen[0]]


def test_shuffled_clips_are_encoded_elsewhere_and_their_embeddings_come_back() -> None:
    ranks = in_two_processes(shuffle)
    expected = build("infonce").encoder.eval()(batch().clips["rgb"][:, 0]).detach()
    together = torch.cat([torch.from_numpy(embeddings) for embeddings, _ in ranks])
    torch.testing.assert_close(together, expected)
    assert not all(own for _, owns in ranks for own in owns), "no clip has changed its process"
