#!/usr/bin/env python3
"""Handwritten digits with JAX on several processes: an ordinary script that survives the loss of a node.

jax.distributed finds its peers by itself. MLCTL_CHECKPOINT_DIR and MLCTL_RESUME_FROM say where an earlier attempt
ended; process 0 alone writes and reads checkpoints.

Needs jax and numpy.
"""

import argparse
import hashlib
import json
import os
import sys
import time

import jax
import numpy
from jax.experimental import multihost_utils

KEEP = 3  # checkpoints that stay on disk


def parse_arguments():
    above = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "digits.csv.gz")
    parser = argparse.ArgumentParser(description="Train a small network on handwritten digits with JAX.")
    parser.add_argument("data", nargs="?", default=os.environ.get("DIGITS_CSV") or above)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkpoint-every", type=int, default=20, metavar="N", help="0: no checkpoints")
    parser.add_argument("--lr", type=float, default=0.3)
    parser.add_argument("--log-every", type=int, default=10, metavar="N")
    parser.add_argument("--min-step-ms", type=int, default=0, metavar="MS",
                        help="let every step take at least this long, to watch a short training")
    return parser.parse_args()


def say(line):
    sys.stdout.write(line + "\n")  # in one piece: print would let another rank's line in before the end of this one
    sys.stdout.flush()


def load_digits(path):
    table = numpy.loadtxt(path, delimiter=",", dtype=numpy.float32)  # unpacks .gz by itself
    table = table[numpy.random.RandomState(0).permutation(len(table))]
    images, labels = table[:, :-1] / 16.0, table[:, -1].astype(int)
    held_out = len(table) // 5
    return images[:-held_out], labels[:-held_out], images[-held_out:], labels[-held_out:]


def scores(parameters, images):
    (weights, bias), (out, out_bias) = parameters
    return jax.nn.relu(images @ weights + bias) @ out + out_bias


def loss_of(parameters, images, labels):
    chosen = jax.nn.log_softmax(scores(parameters, images))[jax.numpy.arange(len(labels)), labels]
    return -chosen.mean()


def start_parameters(seed):
    random = numpy.random.RandomState(seed)
    layer = lambda a, b: (random.normal(0, (2 / a) ** 0.5, (a, b)).astype(numpy.float32), numpy.zeros(b, numpy.float32))
    return [layer(64, 128), layer(128, 10)]


def save_checkpoint(directory, step, leaves):
    """Writes step-N.tmp, then renames it to step-N: whoever sees the final name sees a whole checkpoint."""
    done, unfinished = os.path.join(directory, f"step-{step}"), os.path.join(directory, f"step-{step}.tmp")
    os.makedirs(unfinished, exist_ok=True)
    numpy.savez(os.path.join(unfinished, "state.npz"), *leaves)
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
    jax.distributed.initialize()
    rank, size = jax.process_index(), jax.process_count()
    say(f"process {rank} of {size} on {os.environ.get('MLCTL_NODE')}")
    images, labels, held_out_images, held_out_labels = load_digits(args.data)
    parameters, first = start_parameters(args.seed), 0
    resume = os.environ.get("MLCTL_RESUME_FROM")
    leaves, tree = jax.tree_util.tree_flatten(parameters)
    if rank == 0 and resume:
        with numpy.load(os.path.join(resume, "state.npz")) as state:
            leaves = [state[name] for name in state.files]
        first = int(os.path.basename(resume).split("-")[1])
        say(f"resumed from step {first} ({resume})")
    first, leaves = multihost_utils.broadcast_one_to_all((numpy.int32(first), leaves))
    first, parameters = int(first), jax.tree_util.tree_unflatten(tree, [numpy.asarray(leaf) for leaf in leaves])

    # One array over all devices of all processes, split by images.
    mesh = jax.sharding.Mesh(numpy.array(jax.devices()), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    same = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    each = len(images) // jax.device_count() * jax.device_count()
    whole = lambda array: jax.make_array_from_callback(array.shape, split, lambda place: array[place])
    batch, answers = whole(images[:each]), whole(labels[:each])

    @jax.jit
    def train_step(parameters, batch, answers):
        loss, gradient = jax.value_and_grad(loss_of)(parameters, batch, answers)
        return jax.tree_util.tree_map(lambda p, g: p - args.lr * g, parameters, gradient), loss

    parameters = jax.tree_util.tree_map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, same, lambda place: leaf[place]), parameters)
    directory = os.environ.get("MLCTL_CHECKPOINT_DIR") if args.checkpoint_every > 0 else None
    for step in range(first, args.steps):
        began = time.monotonic()
        parameters, loss = train_step(parameters, batch, answers)
        time.sleep(max(0.0, args.min_step_ms / 1000 - (time.monotonic() - began)))
        done = step + 1
        if rank == 0 and (done % args.log_every == 0 or done == args.steps):
            say(f"step {done}/{args.steps} loss {float(loss):.4f}")
        if rank == 0 and directory and done % args.checkpoint_every == 0:
            save_checkpoint(directory, done, [numpy.asarray(leaf) for leaf in jax.tree_util.tree_leaves(parameters)])

    if rank == 0:
        final = jax.tree_util.tree_map(numpy.asarray, parameters)
        right = (numpy.asarray(scores(final, held_out_images)).argmax(axis=1) == held_out_labels).mean()
        digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.tree_util.tree_leaves(final))).hexdigest()
        say("result " + json.dumps({"accuracy": float(right), "steps": args.steps, "params_digest": digest,
                                      "resumed_from_step": first, "world_size": size}))


if __name__ == "__main__":
    main()
