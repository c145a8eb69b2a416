"""Samples per second of training in one process and in two with DistributedDataParallel, on the CPU.

    python benchmarks/scaling.py [--size 480x640] [--repeats 7]

All processes stay alive and take their turns, one contestant after the other; those that wait sleep.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # without this folder, in which operator.py would hide the standard library's module
    sys.path.pop(0)
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.common import environment, in_turns, write_results
from detrex.config import load_config
from detrex.inference.optimizations import TRAINING_OPTIMIZATIONS, TrainingOptimizations

CONFIG = "projects/deformable_detr/configs/deformable_detr_r50_two_stage_50ep.py"
# name: (processes, threads of each, images of each)
CONTESTANTS = {
    "1 process, 1 thread": (1, 1, 1),
    "1 process, 2 threads": (1, 2, 2),
    "2 processes, 1 thread each": (2, 1, 1),
    "2 processes, 1 thread each, no exchange": (2, 1, 1),
}


def images(count: int, height: int, width: int, seed: int) -> list[dict[str, Any]]:
    """Noise with ten boxes each."""
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for _ in range(count):
        corner = torch.rand(10, 2, generator=generator) * torch.tensor([width, height]) * 0.6
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.cat([corner, corner + 0.3 * torch.tensor([width, height])], 1))
        instances.gt_classes = torch.randint(0, 80, (10,), generator=generator)
        pixels = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        batch.append({"image": pixels, "instances": instances, "height": height, "width": width})
    return batch


def work(pipe: Connection, rank: int, place: tuple[int, int, int], exchange: bool, port: int, size: list[int]) -> None:
    """Train a step for each message, and answer with its CPU seconds."""
    world, threads, count = place
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = instantiate(load_config(CONFIG).model).train()
    TrainingOptimizations(model, TRAINING_OPTIMIZATIONS)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if world > 1:
        store = dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
        model = DistributedDataParallel(model) if exchange else model
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    batch = images(count, *size, seed=rank)
    while pipe.recv():
        begin = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        sum(model(batch).values()).backward()
        nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()
        pipe.send(time.process_time() - begin)
    os._exit(0)  # a process group of Gloo is not torn down


def start(name: str, size: list[int]) -> list[Connection]:
    """The processes of a contestant, ready to be told to work."""
    place = CONTESTANTS[name]
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    STORES.append(store)
    pipes = []
    for rank in range(place[0]):
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        arguments = (theirs, rank, place, "no exchange" not in name, store.port, size)
        multiprocessing.get_context("spawn").Process(target=work, args=arguments, daemon=True).start()
        pipes.append(ours)
    return pipes


STORES: list[dist.TCPStore] = []


def turn(pipes: list[Connection]) -> tuple[float, float]:
    """CPU seconds of all processes, and seconds until the last is done."""
    begin = time.perf_counter()
    for pipe in pipes:
        pipe.send(True)
    cpu = sum(pipe.recv() for pipe in pipes)
    return cpu, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="480x640", help="height x width of the images")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    size = [int(side) for side in args.size.split("x")]
    jobs = {name: start(name, size) for name in CONTESTANTS}
    timings = in_turns({name: lambda p=pipes: turn(p) for name, pipes in jobs.items()}, args.repeats, warmup=2)
    for pipe in (pipe for pipes in jobs.values() for pipe in pipes):
        pipe.send(False)
    rows = []
    for name, timing in timings.items():
        batch = CONTESTANTS[name][0] * CONTESTANTS[name][2]
        rows.append(
            {
                "contestant": name,
                "images in a step": batch,
                "s a step": timing.wall_s,
                "images/s": batch / timing.wall_s,
                "CPU s an image": timing.cpu_s / batch,
            }
        )
    env = environment(torch.device("cpu")) | {"config": CONFIG, "size": args.size, "repeats": args.repeats}
    write_results("scaling", "Training in one and two processes (two-stage Deformable DETR, ResNet-50)", env, rows)


if __name__ == "__main__":
    main()
