//! Threads whose work nobody waits for: they give way to all others.
//! It does not make them: who starts such a thread calls this first in it.

/// The lowest priority, so that work that can wait takes no time from work that cannot (`setpriority(2)`).
const LOWEST: i32 = 19;

/// Lowers the priority of the calling thread, and of those that it will start.
pub fn give_way() {
    // On Linux priorities are those of threads, and "the calling process" is the calling thread.
    if let Err(error) = rustix::process::setpriority_process(None, LOWEST) {
        tracing::debug!(%error, "this thread keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_calling_thread_gives_way() {
        let own = || rustix::process::getpriority_process(None).expect("known");
        let before = own();
        let other = std::thread::spawn(move || {
            give_way();
            own()
        });
        assert_eq!(other.join().expect("it ends"), LOWEST);
        assert_eq!(own(), before);
    }
}
