//! Leads while this member is the leader: sets a new cluster up, runs the loop, and drops all of it with the term.
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Port;
use super::lead::Lead;
use crate::shared::{CallError, Shared};
use crate::state::Body;
use crate::state::commands::Bootstrap;

/// Reports of agents that may wait for the loop.
const INPUTS: usize = 8_192;
const BOOTSTRAP_PAUSE: Duration = Duration::from_millis(200);

/// Runs until the process is to end. `ports` shows the current term's loop to agents' streams.
pub async fn supervise(shared: Arc<Shared>, ports: watch::Sender<Option<Port>>) {
    let mut leading = shared.published.leading();
    loop {
        let term = *leading.borrow_and_update();
        let ended = async {
            tokio::select! {
                // The sender lives as long as `shared`.
                _ = leading.changed() => {}
                () = shared.shutdown.wait() => {}
            }
        };
        tokio::select! {
            () = lead(&shared, term, &ports) => {}
            () = ended => {}
        }
        ports.send_replace(None);
        if shared.shutdown.is_triggered() {
            return;
        }
    }
}

async fn lead(shared: &Arc<Shared>, term: Option<u64>, ports: &watch::Sender<Option<Port>>) {
    let Some(term) = term else {
        return std::future::pending().await;
    };
    tracing::info!(term, "leading");
    bootstrap(shared).await;
    let (inputs, received) = mpsc::channel(INPUTS);
    let Some(lead) = Lead::new(Arc::clone(shared), term) else {
        return std::future::pending().await;
    };
    ports.send_replace(Some(Port { term, inputs }));
    lead.run(received).await;
}

/// The first leader of a cluster gives it its settings.
async fn bootstrap(shared: &Arc<Shared>) {
    while shared.state().settings().is_none() {
        let config = &shared.config;
        let body = Body::Bootstrap(Bootstrap {
            cluster_id: shared.cluster.clone(),
            cluster_name: config.cluster_name.clone(),
            incarnation: u32::try_from(shared.raft.incarnation()).unwrap_or(1).max(1),
            dev: config.dev,
            allow_root: config.dev,
            timers: config.timers(),
            retention: config.retention(),
        });
        match shared
            .propose(shared.system(), "coordinator", None, body)
            .await
        {
            Ok(_) => tracing::info!(cluster = %shared.cluster, dev = config.dev, "a new cluster"),
            // Not leading any more: whoever watches the term ends this.
            Err(CallError::Elsewhere) => tokio::time::sleep(BOOTSTRAP_PAUSE).await,
            Err(CallError::Refused(refusal)) => {
                tracing::warn!(%refusal, "the cluster is not set up yet; trying again");
                tokio::time::sleep(BOOTSTRAP_PAUSE).await;
            }
        }
    }
}
