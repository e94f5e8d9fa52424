//! What tests let jobs do: small shell and Python programs, each recognisable in the process table.
//! Does NOT run anything but the question whether a Python has torch.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
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
    let debian = "python3-torch python3-numpy";
    python_with(
        test,
        PYTHON,
        "torch, numpy",
        &format!("apt-get install {debian}"),
    )
}

/// The Python of Debian's packages.
pub const PYTHON: &str = "/usr/bin/python3";

/// `python` if it can import `modules`; else `test` is noted as skipped, with `how` to get them.
pub fn python_with<'a>(test: &str, python: &'a str, modules: &str, how: &str) -> Option<&'a str> {
    let mut command = Command::new(python);
    command
        .args(["-c", &format!("import {modules}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let there = command.status().is_ok_and(|status| status.success());
    if !there {
        skips::skip(test, &format!("{python} cannot import {modules}: {how}"));
    }
    there.then_some(python)
}

/// A directory to be a `PATH`: all that this machine has in `/usr/bin` and `/usr/sbin`, but no ssh and nothing like it.
///
/// # Panics
/// When it cannot be made.
pub fn path_without_ssh(at: &Path) -> String {
    fs::create_dir_all(at).expect("a directory");
    for folder in ["/usr/bin", "/usr/sbin"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let text = name.to_string_lossy();
            if ["ssh", "slogin", "rsh", "rlogin"]
                .iter()
                .any(|one| text.contains(one))
            {
                continue;
            }
            // The first one counts, as in a `PATH`.
            let _ = symlink(entry.path(), at.join(name));
        }
    }
    at.to_str().expect("UTF-8").to_owned()
}
