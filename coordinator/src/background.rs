//! Threads whose work nobody waits for: they give way to all others.
//! It does not make them: who starts such a thread calls this first in it.

/// A low priority, so that work that can wait takes little time from work that cannot (`setpriority(2)`). Not the lowest: on a machine
/// that is never idle it would never be done.
const LOW: i32 = 10;

/// Lowers the priority of the calling thread, and of those that it will start.
pub fn give_way() {
    // On Linux priorities are those of threads, and "the calling process" is the calling thread.
    if let Err(error) = rustix::process::setpriority_process(None, LOW) {
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
        assert_eq!(other.join().expect("it ends"), LOW);
        assert_eq!(own(), before);
    }
}
