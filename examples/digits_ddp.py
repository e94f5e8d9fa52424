#!/usr/bin/env python3
"""Handwritten digits with PyTorch DistributedDataParallel: an ordinary script that survives the loss of a node.

It uses what every mlctl job gets: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT to find its peers, and
MLCTL_CHECKPOINT_DIR and MLCTL_RESUME_FROM to go on where an earlier attempt ended. Rank 0 alone writes and reads
checkpoints; the others get their parameters from it. Interrupted and resumed or not, the same seed and world size
end with the same parameters, bit for bit, on machines with the same processor and the same torch.

Needs torch (1.13 or 2.x) and numpy. It shows no mixed precision, no GPU and no sharding.
"""

import argparse
import datetime
import hashlib
import json
import os
import shutil
import sys
import time

import numpy
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

KEEP = 3  # checkpoints that stay on disk
PEER_TIMEOUT = datetime.timedelta(seconds=10)


def parse_arguments():
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "digits.csv.gz")
    parser = argparse.ArgumentParser(description="Train a small network on handwritten digits with DDP.")
    parser.add_argument("data", nargs="?", default=os.environ.get("DIGITS_CSV") or beside,
                        help="CSV file, gzipped or not (default: $DIGITS_CSV, or digits.csv.gz beside this script)")
    parser.add_argument("--steps", type=positive, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkpoint-every", type=int, default=20, metavar="N", help="0: no checkpoints")
    parser.add_argument("--hidden", type=positive, default=512, metavar="N")
    parser.add_argument("--batch", type=positive, default=256, metavar="N", help="images per step, over all ranks")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--log-every", type=positive, default=5, metavar="N")
    parser.add_argument("--min-step-ms", type=int, default=0, metavar="MS",
                        help="let every step take at least this long, to watch a short training")
    return parser.parse_args()


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def say(line):
    print(line, flush=True)


def load_digits(path):
    """Returns (train images, train labels, held-out images, held-out labels), always split the same way."""
    table = numpy.loadtxt(path, delimiter=",", dtype=numpy.float32)  # unpacks .gz by itself
    order = numpy.random.RandomState(0).permutation(len(table))
    table = torch.from_numpy(table[order])
    images, labels = table[:, :-1] / 16.0, table[:, -1].long()
    held_out = len(table) // 5
    return images[:-held_out], labels[:-held_out], images[-held_out:], labels[-held_out:]


def batch_of(step, args, rank, world, images):
    """The images that this rank takes in this step: a function of seed and step, not of what ran before."""
    generator = torch.Generator().manual_seed((args.seed * 1_000_003 + step) % 2**63)
    chosen = torch.randperm(images, generator=generator)[:args.batch]
    return chosen[len(chosen) * rank // world:len(chosen) * (rank + 1) // world]


def recipe(args):
    """What a checkpoint and the training that resumes from it must agree on."""
    return {"seed": args.seed, "hidden": args.hidden, "batch": args.batch, "lr": args.lr}


def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def save_checkpoint(directory, step, model, optimizer, args):
    """Writes step-N.tmp, then renames it to step-N: whoever sees the final name sees a whole checkpoint."""
    done, unfinished = os.path.join(directory, f"step-{step}"), os.path.join(directory, f"step-{step}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    os.makedirs(unfinished)
    state = os.path.join(unfinished, "state.pt")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, state)
    meta = os.path.join(unfinished, "meta.json")
    with open(meta, "w") as file:
        json.dump({"step": step, "recipe": recipe(args), "sha256": file_digest(state)}, file)
    for path in (state, meta, unfinished):
        sync(path)
    shutil.rmtree(done, ignore_errors=True)  # left by an attempt that ended after it
    os.rename(unfinished, done)
    sync(directory)
    # Later ones are left over too; they do not count, or they would push out what was just written.
    steps = (name[len("step-"):] for name in os.listdir(directory) if name.startswith("step-"))
    for old in sorted(int(number) for number in steps if number.isdigit() and int(number) <= step)[:-KEEP]:
        shutil.rmtree(os.path.join(directory, f"step-{old}"), ignore_errors=True)
    say(f"checkpoint step {step}")


def load_checkpoint(path, args):
    """Reads a checkpoint on rank 0; refuses one that is damaged or belongs to another training."""
    state = os.path.join(path, "state.pt")
    try:
        with open(os.path.join(path, "meta.json")) as file:
            meta = json.load(file)
        digest = file_digest(state)
        written_by, expected, step = meta["recipe"], meta["sha256"], meta["step"]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"cannot read the checkpoint {path}: {error!r}; resume from another one")
    if digest != expected:
        sys.exit(f"the checkpoint is damaged: {state} does not match its digest; resume from another one")
    if written_by != recipe(args):
        sys.exit(f"the checkpoint {path} belongs to another training: {written_by} instead of {recipe(args)}")
    if step > args.steps:
        sys.exit(f"the checkpoint {path} was written after step {step}, later than the last step {args.steps}")
    return {"step": step, **torch.load(state)}


def start_state(args, rank, world):
    """What to start from, the same on all ranks: rank 0's checkpoint, or None."""
    path = os.environ.get("MLCTL_RESUME_FROM")
    state = [load_checkpoint(path, args) if rank == 0 and path else None]
    if world > 1:
        dist.broadcast_object_list(state, src=0)
    if rank == 0 and path:
        say(f"resumed from step {state[0]['step']} ({path})")
    return state[0]


def mean_of_each_gradient(world, bucket):
    """Reduces every gradient by itself. DDP sorts its buckets anew after the first step, also the first one after
    a resume; with three ranks or more another bucket is another order of additions, thus other bits."""
    for gradient in bucket.gradients():
        dist.all_reduce(gradient)
        gradient /= world
    reduced = torch.futures.Future()
    reduced.set_result(bucket.buffer())
    return reduced


def parameters_digest(model):
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def train(args, rank, world):
    images, labels, held_out_images, held_out_labels = load_digits(args.data)
    torch.manual_seed(args.seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(images.shape[1], args.hidden), torch.nn.ReLU(), torch.nn.Linear(args.hidden, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    state = start_state(args, rank, world)
    resumed_from = 0
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        resumed_from = state["step"]
    parallel = model
    if world > 1:
        parallel = DistributedDataParallel(model)
        parallel.register_comm_hook(world, mean_of_each_gradient)
    directory = os.environ.get("MLCTL_CHECKPOINT_DIR") if rank == 0 and args.checkpoint_every > 0 else None

    for step in range(resumed_from, args.steps):
        began = time.monotonic()
        chosen = batch_of(step, args, rank, world, len(images))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(parallel(images[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
        time.sleep(max(0.0, args.min_step_ms / 1000 - (time.monotonic() - began)))
        done = step + 1
        if done % args.log_every == 0 or done == args.steps:
            mean = loss.detach() / world
            if world > 1:
                dist.all_reduce(mean)
            if rank == 0:
                say(f"step {done}/{args.steps} loss {mean.item():.4f}")
        if directory and (done % args.checkpoint_every == 0 or done == args.steps):
            save_checkpoint(directory, done, model, optimizer, args)

    if rank == 0:
        with torch.no_grad():
            right = (model(held_out_images).argmax(1) == held_out_labels).sum().item()
        say("result " + json.dumps({
            "accuracy": right / len(held_out_labels), "steps": args.steps, "params_digest": parameters_digest(model),
            "resumed_from_step": resumed_from, "world_size": world}))


def main():
    args = parse_arguments()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if args.batch < world:
        sys.exit(f"--batch {args.batch} is less than one image for each of the {world} ranks")
    # One thread and deterministic kernels: sums are made in the same order every time.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if world > 1:
        dist.init_process_group("gloo", init_method="env://", timeout=PEER_TIMEOUT)
    train(args, rank, world)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
