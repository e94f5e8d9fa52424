"""Writes one checkpoint with the real library. Run by record.py: writers.py CASE DIR."""

import dataclasses
import os
import sys
import tempfile
import time

# torch 1.13 defines a dataclass with a default that Python 3.11 refuses; what it writes is not touched by this.
_dataclass = dataclasses.dataclass


def _lenient(cls=None, **options):
    def wrap(cls):
        extra = {"unsafe_hash": True} if cls.__name__ == "TensorProperties" else {}
        return _dataclass(cls, **{**options, **extra})

    return wrap if cls is None else wrap(cls)


def torch():
    dataclasses.dataclass = _lenient
    import torch
    import torch.distributed._shard

    dataclasses.dataclass = _dataclass
    return torch


def whole(root):
    """Says to the recorder: all that is there now is whole. Until the next call that changes something."""
    mark = f"{root}/.whole"
    open(mark, "w").close()
    time.sleep(0.05)
    os.remove(mark)


def two(function, *args):
    """Runs `function(rank, *args)` in two processes of one gloo group."""
    import torch.multiprocessing

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29561", WORLD_SIZE="2")
    torch.multiprocessing.spawn(function, args, nprocs=2)


def dcp_rank(rank, root, times):
    t = torch()
    import torch.distributed as dist
    import torch.distributed._shard.checkpoint as dcp

    dist.init_process_group("gloo", rank=rank, world_size=2)
    from torch.distributed._shard.sharded_tensor import full
    from torch.distributed._shard.sharding_spec import ChunkShardingSpec

    spec = ChunkShardingSpec(dim=0, placements=["rank:0/cpu", "rank:1/cpu"])
    for n in range(times):
        state = {"parts": full(spec, (64,), fill_value=float(n)), "both": t.arange(32.0) + n, "step": n}
        dcp.save_state_dict(state, dcp.FileSystemWriter(f"{root}/step_10"))
        dist.barrier()
        if rank == 0:
            whole(root)
        dist.barrier()


def dcp(root):
    torch()
    two(dcp_rank, root, 1)


def dcp_again(root):
    """Into the same directory twice: the first one's `.metadata` is there while the second is written."""
    torch()
    two(dcp_rank, root, 2)


def hf_trainer(root, **options):
    t = torch()
    import transformers

    config = transformers.BertConfig(
        vocab_size=16, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4,
        max_position_embeddings=8, num_labels=2,
    )
    model = transformers.BertForSequenceClassification(config)
    data = [{"input_ids": t.tensor([1, 2, 3]), "labels": t.tensor(i % 2)} for i in range(8)]
    arguments = transformers.TrainingArguments(
        output_dir=root, max_steps=options.pop("steps", 2), save_steps=2, per_device_train_batch_size=1, report_to=[],
        no_cuda=True, disable_tqdm=True, **options,
    )
    transformers.Trainer(model=model, args=arguments, train_dataset=data).train()
    if t.distributed.is_initialized():
        t.distributed.barrier()
    if os.environ.get("RANK", "0") == "0":
        whole(root)


def hf(root):
    hf_trainer(root, save_safetensors=True)


def hf_bin(root):
    hf_trainer(root, save_safetensors=False)


def hf_again(root):
    """A second run writes over the first one's checkpoint-2."""
    hf_trainer(root)
    hf_trainer(root)


def hf_rank(rank, root):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    hf_trainer(root, save_safetensors=True, xpu_backend="gloo", ddp_backend="gloo")


def hf_two(root):
    torch()
    two(hf_rank, root)


def lightning(root):
    t = torch()
    import pytorch_lightning as pl

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = t.nn.Linear(4, 1)

        def _register_sharded_tensor_state_dict_hooks_if_available(self):
            """Fails with torch 1.13, and there are no sharded tensors here."""

        def training_step(self, batch, _):
            return self.layer(batch).mean()

        def configure_optimizers(self):
            return t.optim.Adam(self.parameters())

    keep = pl.callbacks.ModelCheckpoint(dirpath=root, every_n_train_steps=2, save_top_k=-1, save_last=True)
    data = t.utils.data.DataLoader(t.zeros(4, 4), batch_size=1)
    pl.Trainer(max_steps=4, callbacks=[keep], logger=False, enable_progress_bar=False, accelerator="cpu").fit(Model(), data)
    whole(root)


def fsspec_transaction(root):
    """How Lightning 2 writes: a file somewhere else, then moved. From another file system, so the move is a copy."""
    import io

    import fsspec

    t = torch()
    tempfile.tempdir = "/dev/shm"
    buffer = io.BytesIO()
    t.save({"state_dict": {"w": t.zeros(300_000)}, "pytorch-lightning_version": "2"}, buffer)
    files = fsspec.filesystem("file")
    with files.transaction, files.open(f"{root}/step=4.ckpt", "wb") as file:
        file.write(buffer.getvalue())
    whole(root)


def orbax_save(root, **options):
    import jax.numpy
    import orbax.checkpoint as ocp

    manager = ocp.CheckpointManager(root, options=ocp.CheckpointManagerOptions(**options))
    manager.save(10, args=ocp.args.StandardSave({"w": jax.numpy.arange(8.0)}), metrics={"loss": 0.5})
    manager.wait_until_finished()
    whole(root)


def orbax(root):
    orbax_save(root)


def orbax_commit_file(root):
    """As on stores that cannot rename: the final name from the beginning, `commit_success.txt` last."""
    from orbax.checkpoint._src.path import atomicity

    orbax_save(root, temporary_path_class=atomicity.CommitFileTemporaryPath)


def safetensors_index(root):
    """A model in several files, with no trainer around it."""
    torch()
    import transformers

    config = transformers.BertConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=8,
    )
    model = transformers.BertModel(config)
    model.save_pretrained(f"{root}/step-7", safe_serialization=True, max_shard_size="2KB")
    whole(root)


def torch_save(root):
    """A script of one's own: two files, one after the other."""
    t = torch()
    os.mkdir(f"{root}/step-3")
    t.save({"w": t.zeros(64)}, f"{root}/step-3/model.pt")
    t.save({"m": t.zeros(64)}, f"{root}/step-3/optimizer_state.pt")
    whole(root)


def torch_save_file(root):
    """A script of one's own: one file, written in place."""
    t = torch()
    t.save({"step": 3, "w": t.zeros(64)}, f"{root}/step-3.pt")
    whole(root)


def versions(case):
    names = {"dcp": ["torch"], "hf": ["transformers", "torch"], "lightning": ["pytorch_lightning", "torch"]}
    names.update(orbax=["orbax.checkpoint", "jax"], safetensors=["transformers", "safetensors"], torch=["torch"], fsspec=["fsspec", "torch"])
    if not case.startswith("orbax"):
        torch()
    modules = [__import__(name, fromlist=["x"]) for name in names[case.split("_")[0]]]
    return ", ".join(f"{module.__name__} {module.__version__}" for module in modules)


if __name__ == "__main__":
    case, place = sys.argv[1:]
    if place == "--versions":
        print(versions(case))
    else:
        globals()[case](place)
