//! A runtime of its own for transfers, whose threads come last: 19 steps nicer, which also gives their reads and writes the lowest
//! best-effort priority of the disk. Does NOT limit memory or bandwidth.

/// A runtime with `threads` threads for connections and encryption, and more for disks and hashes as they are needed.
///
/// # Errors
/// When the system starts no threads.
pub fn quiet_runtime(threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .thread_name("transfer")
        .on_thread_start(|| {
            // Of the calling thread only. To be nicer is always allowed.
            let _ = rustix::process::setpriority_process(None, 19);
        })
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_threads_are_nice_and_others_are_not() {
        let before = rustix::process::getpriority_process(None).expect("known");
        let runtime = quiet_runtime(1).expect("starts");
        let nice = || rustix::process::getpriority_process(None).expect("known");
        let inside = runtime.block_on(async move { tokio::spawn(async move { nice() }).await });
        assert_eq!(inside.expect("ran"), 19);
        let blocking = runtime.block_on(async move { tokio::task::spawn_blocking(nice).await });
        assert_eq!(blocking.expect("ran"), 19);
        assert_eq!(nice(), before);
    }
}
