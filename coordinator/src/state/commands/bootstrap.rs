//! Bootstrap: the first command of a cluster. Makes the settings and the default team; a second one is refused.
use mlctl_proto::errors::{Code, Refusal};

use super::{Context, bounded};
use crate::state::change::Change;
use crate::state::records::{EVERYBODYS, Reply, Retention, Settings, Team, Timers};

/// The team of everybody until there are others.
pub const DEFAULT_TEAM: &str = EVERYBODYS;

/// What a cluster begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// Random, made with the CA.
    pub cluster_id: String,
    /// For people.
    pub cluster_name: String,
    /// 1 in a cluster that never had a recovery.
    pub incarnation: u32,
    /// A throw-away cluster of `mlctl dev`.
    pub dev: bool,
    /// Whether jobs may run as root.
    pub allow_root: bool,
    /// All timers.
    pub timers: Timers,
    /// How long jobs that are over stay in memory.
    pub retention: Retention,
}

impl Bootstrap {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_system()?;
        if change.state().settings().is_some() {
            return Err(Refusal::new(
                Code::Conflict,
                "the cluster is set up already: nothing was changed",
            ));
        }
        bounded("the cluster id", &self.cluster_id, 128)?;
        bounded("the cluster name", &self.cluster_name, 128)?;
        if self.incarnation == 0 {
            return Err(Refusal::new(Code::BadRequest, "incarnations count from 1"));
        }
        check_timers(&self.timers)?;
        let segment = self.retention.segment_bytes;
        if segment != 0 && !Retention::SEGMENT_BYTES_RANGE.contains(&segment) {
            let why = "a segment of history has 4 KiB to 64 MiB";
            return Err(Refusal::new(Code::BadRequest, why));
        }
        change.put_settings(Settings {
            cluster_id: self.cluster_id.clone(),
            cluster_name: self.cluster_name.clone(),
            incarnation: self.incarnation,
            dev: self.dev,
            allow_root: self.allow_root,
            timers: self.timers,
            retention: self.retention,
            next_job: 1,
            now_ms: context.now_ms,
            preemptions: 0,
            preemptions_in_vain: 0,
        });
        change.put_team(Team::new(DEFAULT_TEAM));
        Ok(Reply::Done)
    }
}

fn check_timers(timers: &Timers) -> Result<(), Refusal> {
    let ordered = timers.heartbeat_ms > 0
        && timers.heartbeat_ms < timers.node_timeout_ms
        && timers.node_timeout_ms <= timers.lost_after_ms;
    if !ordered {
        let why = "timers must keep 0 < heartbeat < node_timeout <= lost_after";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    if !timers.fence_is_safe() {
        let why = "timers must keep (fence_after + kill_grace) * 1.1 < lost_after: a fenced attempt has to be dead before its node is Lost";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{bootstrap, command, person, system};
    use crate::state::{Body, State};

    #[test]
    fn only_a_bootstrap_and_only_once() {
        let mut state = State::new();
        let change = Body::ChangeSettings(super::super::ChangeSettings {
            allow_root: Some(true),
            ..super::super::ChangeSettings::default()
        });
        let early = state.apply(1, &command(person("root", true), 5, change));
        assert_eq!(
            early.refusal().map(|refusal| refusal.code),
            Some(Code::Unavailable)
        );
        assert_eq!((state.applied_index(), state.row_count()), (1, 0));

        let denied = state.apply(
            2,
            &command(person("root", true), 5, Body::Bootstrap(bootstrap())),
        );
        assert_eq!(
            denied.refusal().map(|refusal| refusal.code),
            Some(Code::Denied)
        );

        let done = state.apply(3, &command(system(), 7, Body::Bootstrap(bootstrap())));
        assert_eq!(done.reply, Reply::Done);
        assert_eq!((state.now_ms(), state.teams().count()), (7, 1));
        let again = state.apply(4, &command(system(), 9, Body::Bootstrap(bootstrap())));
        assert_eq!(
            again.refusal().map(|refusal| refusal.code),
            Some(Code::Conflict)
        );
        assert_eq!(
            state.now_ms(),
            7,
            "a refused command does not move state time"
        );
    }

    #[test]
    fn senseless_settings_are_refused() {
        let check = |what: &str, spoil: fn(&mut Bootstrap)| {
            let mut bootstrap = bootstrap();
            spoil(&mut bootstrap);
            let applied = State::new().apply(1, &command(system(), 1, Body::Bootstrap(bootstrap)));
            assert_eq!(
                applied.refusal().map(|refusal| refusal.code),
                Some(Code::BadRequest),
                "{what}"
            );
        };
        check("no id", |b| b.cluster_id.clear());
        check("a long name", |b| b.cluster_name = "x".repeat(129));
        check("incarnation 0", |b| b.incarnation = 0);
        check("no heartbeat", |b| b.timers.heartbeat_ms = 0);
        check("a timeout below the heartbeat", |b| {
            b.timers.node_timeout_ms = 1
        });
        check("lost before silent", |b| {
            b.timers.lost_after_ms = b.timers.node_timeout_ms - 1
        });
        check("an unsafe fence", |b| {
            b.timers.fence_after_ms = b.timers.lost_after_ms
        });
    }
}
