//! What tests let jobs do: small shell and Python programs, each recognisable in the process table.
//! Does NOT run anything but the question whether a Python has torch.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::tidy::skips;

/// A duration for `sleep`, about a quarter of an hour, that no other process of this machine uses: its own mark in the process table.
pub fn nap() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "1000.{:07}{:03}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Prints `line 1` to `line LAST` in about two seconds. Rank 0 ends three seconds after that with `code`, the others at once with 0.
pub fn counting(last: u32, code: i32) -> String {
    format!(
        "i=0; while [ $i -lt {last} ]; do i=$((i+1)); echo line $i; [ $((i % {pause})) = 0 ] && sleep 0.02; done; [ $RANK = 0 ] || exit 0; sleep 3; exit {code}",
        pause = (last / 100).max(1)
    )
}

/// Adds up every rank's number plus one with torch, over gloo.
pub const TORCH_SUM: &str = r#"import torch
import torch.distributed as dist

dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
print(f"rank {dist.get_rank()} of {dist.get_world_size()}: sum {int(total.item())}", flush=True)
dist.destroy_process_group()
"#;

/// The Python that has torch here, if there is one; else `test` is noted as skipped.
pub fn python_with_torch(test: &str) -> Option<&'static str> {
    let python = "/usr/bin/python3";
    let mut command = Command::new(python);
    command
        .args(["-c", "import torch, numpy"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let there = command.status().is_ok_and(|status| status.success());
    if !there {
        skips::skip(
            test,
            &format!(
                "{python} cannot import torch and numpy; Debian: apt-get install python3-torch python3-numpy"
            ),
        );
    }
    there.then_some(python)
}
