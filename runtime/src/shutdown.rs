//! SIGTERM and SIGINT as a token that any number of tasks can wait for.
//!
//! Decides nothing about what is finished first and never ends the process.
use std::io;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether this process shall end. Clones share one state, which goes from no to yes once and never back.
#[derive(Debug, Clone)]
pub struct Shutdown {
    asked: Arc<watch::Sender<bool>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A token that only [`trigger`](Self::trigger) sets.
    pub fn new() -> Self {
        Self {
            asked: Arc::new(watch::Sender::new(false)),
        }
    }

    /// A token that SIGTERM or SIGINT sets too, from now on instead of ending the process.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed. Must be called inside a tokio runtime.
    pub fn on_signals() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::new();
        let token = shutdown.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                () = token.wait() => return,
            };
            tracing::info!(signal = name, "shutting down");
            token.trigger();
        });
        Ok(shutdown)
    }

    /// Asks everybody who waits to finish. Asking again changes nothing.
    pub fn trigger(&self) {
        self.asked.send_replace(true);
    }

    /// Whether it was asked for.
    pub fn is_triggered(&self) -> bool {
        *self.asked.borrow()
    }

    /// Returns when it is asked for; at once if it was.
    pub async fn wait(&self) {
        // `self` keeps the sender, so this can only end by the value becoming true.
        let _ = self.asked.subscribe().wait_for(|asked| *asked).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, raise};
    use std::time::Duration;

    #[tokio::test]
    async fn clones_share_one_state() {
        let shutdown = Shutdown::new();
        let waiting = shutdown.clone();
        let task = tokio::spawn(async move { waiting.wait().await });
        assert!(!shutdown.is_triggered());
        shutdown.trigger();
        shutdown.trigger();
        tokio::time::timeout(Duration::from_secs(5), task)
            .await
            .expect("woken")
            .expect("joined");
        shutdown.wait().await;
        assert!(shutdown.clone().is_triggered());
    }

    #[tokio::test]
    async fn signals_set_it() {
        for which in [Signal::SIGTERM, Signal::SIGINT] {
            let shutdown = Shutdown::on_signals().expect("handlers");
            assert!(!shutdown.is_triggered());
            raise(which).expect("raised");
            tokio::time::timeout(Duration::from_secs(5), shutdown.wait())
                .await
                .expect("seen");
        }
    }
}
