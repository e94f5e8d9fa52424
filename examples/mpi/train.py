#!/usr/bin/env python3
"""Handwritten digits with mpi4py: an ordinary script that survives the loss of a node.

MPI says who is who. MLCTL_CHECKPOINT_DIR and MLCTL_RESUME_FROM say where an earlier attempt ended; the first rank alone
writes and reads checkpoints. SIGTERM saves one and ends. Interrupted and resumed or not, the same number of ranks ends
with the same parameters, bit for bit.

Needs mpi4py and numpy.
"""

import argparse
import hashlib
import json
import os
import signal
import sys

import numpy
from mpi4py import MPI

KEEP = 3  # checkpoints that stay on disk


def parse_arguments():
    above = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "digits.csv.gz")
    parser = argparse.ArgumentParser(description="Train a classifier of handwritten digits with MPI.")
    parser.add_argument("data", nargs="?", default=os.environ.get("DIGITS_CSV") or above)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--checkpoint-every", type=int, default=20, metavar="N", help="0: no checkpoints")
    parser.add_argument("--lr", type=float, default=0.5)
    parser.add_argument("--log-every", type=int, default=10, metavar="N")
    parser.add_argument("--min-step-ms", type=int, default=0, metavar="MS")
    return parser.parse_args()


def say(line):
    sys.stdout.write(line + "\n")  # in one piece: print would let another rank's line in before the end of this one
    sys.stdout.flush()


def load_digits(path):
    """Returns (train images, train labels, held-out images, held-out labels), always split the same way."""
    table = numpy.loadtxt(path, delimiter=",")  # unpacks .gz by itself
    table = table[numpy.random.RandomState(0).permutation(len(table))]
    images, labels = table[:, :-1] / 16.0, table[:, -1].astype(int)
    held_out = len(table) // 5
    return images[:-held_out], labels[:-held_out], images[-held_out:], labels[-held_out:]


def features(images):
    """Pixels, products of neighbours, and a constant: enough for a linear classifier to be good."""
    squares = images.reshape(-1, 8, 8)
    across = (squares[:, :, 1:] * squares[:, :, :-1]).reshape(len(images), -1)
    down = (squares[:, 1:, :] * squares[:, :-1, :]).reshape(len(images), -1)
    return numpy.hstack([images, across, down, numpy.ones((len(images), 1))])


def softmax(scores):
    powers = numpy.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def save_checkpoint(directory, step, weights):
    """Writes step-N.tmp, then renames it to step-N: whoever sees the final name sees a whole checkpoint."""
    done, unfinished = os.path.join(directory, f"step-{step}"), os.path.join(directory, f"step-{step}.tmp")
    os.makedirs(unfinished, exist_ok=True)
    numpy.savez(os.path.join(unfinished, "state.npz"), step=step, weights=weights)
    for path in (os.path.join(unfinished, "state.npz"), unfinished):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    if not os.path.isdir(done):
        os.rename(unfinished, done)
    steps = sorted(int(name[5:]) for name in os.listdir(directory) if name.startswith("step-") and name[5:].isdigit())
    for old in [step_ for step_ in steps if step_ <= step][:-KEEP]:
        folder = os.path.join(directory, f"step-{old}")
        for name in os.listdir(folder):
            os.remove(os.path.join(folder, name))
        os.rmdir(folder)
    say(f"checkpoint step {step}")


def main():
    args = parse_arguments()
    world = MPI.COMM_WORLD
    rank, size = world.Get_rank(), world.Get_size()
    terminated = []
    signal.signal(signal.SIGTERM, lambda *_: terminated.append(True))
    images, labels, held_out_images, held_out_labels = load_digits(args.data)
    inputs, weights, first = features(images), None, 0
    directory = os.environ.get("MLCTL_CHECKPOINT_DIR") if args.checkpoint_every > 0 else None
    if rank == 0:
        weights = numpy.zeros((inputs.shape[1], 10))
        resume = os.environ.get("MLCTL_RESUME_FROM")
        if resume:
            with numpy.load(os.path.join(resume, "state.npz")) as state:
                weights, first = state["weights"], int(state["step"])
            say(f"resumed from step {first} ({resume})")
    weights, first = world.bcast((weights, first), root=0)
    say(f"rank {rank} of {size} on {os.environ.get('MLCTL_NODE', MPI.Get_processor_name())}")

    own = slice(len(inputs) * rank // size, len(inputs) * (rank + 1) // size)
    targets = numpy.eye(10)[labels]
    for step in range(first, args.steps):
        began = MPI.Wtime()
        errors = softmax(inputs[own] @ weights) - targets[own]
        # Added up in the order of ranks: the same sum every time.
        parts = world.allgather((inputs[own].T @ errors, bool(terminated)))
        weights = weights - args.lr * sum(part for part, _ in parts) / len(inputs)
        while MPI.Wtime() - began < args.min_step_ms / 1000:
            pass
        done, stop = step + 1, any(ended for _, ended in parts)
        if rank == 0 and (done % args.log_every == 0 or done == args.steps):
            chosen = softmax(inputs @ weights)[numpy.arange(len(labels)), labels]
            say(f"step {done}/{args.steps} loss {-numpy.log(chosen).mean():.6f}")
        if rank == 0 and directory and (done % args.checkpoint_every == 0 or stop):
            save_checkpoint(directory, done, weights)
        if stop:
            sys.exit(143)

    if rank == 0:
        right = (softmax(features(held_out_images) @ weights).argmax(axis=1) == held_out_labels).mean()
        digest = hashlib.sha256(weights.tobytes()).hexdigest()
        say("result " + json.dumps({"accuracy": float(right), "steps": args.steps, "params_digest": digest,
                                      "resumed_from_step": first, "world_size": size}))


if __name__ == "__main__":
    main()
