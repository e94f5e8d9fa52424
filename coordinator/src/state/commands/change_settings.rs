//! ChangeSettings: an admin changes what may change while the cluster runs. Fields that are absent stay.
use mlctl_proto::errors::{Code, Refusal};

use super::Context;
use crate::state::change::Change;
use crate::state::records::Reply;

/// What to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeSettings {
    /// Whether jobs may run as root.
    pub allow_root: Option<bool>,
    /// How many jobs that are over stay in memory.
    pub keep_finished: Option<u32>,
    /// For how many days at most.
    pub keep_finished_days: Option<u32>,
}

impl ChangeSettings {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_admin()?;
        let mut settings = change.settings()?;
        if let Some(allow_root) = self.allow_root {
            settings.allow_root = allow_root;
        }
        for value in [self.keep_finished, self.keep_finished_days] {
            if value == Some(0) {
                let why = "keep at least one finished job, for at least one day: what leaves memory stays in history";
                return Err(Refusal::new(Code::BadRequest, why));
            }
        }
        let retention = &mut settings.retention;
        retention.keep_finished = self.keep_finished.unwrap_or(retention.keep_finished);
        retention.keep_finished_days = self
            .keep_finished_days
            .unwrap_or(retention.keep_finished_days);
        change.put_settings(settings);
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Body;
    use crate::state::records::Actor;
    use crate::state::testing::{Cluster, person, system};

    #[test]
    fn admins_only() {
        let mut cluster = Cluster::new();
        let mut check = |actor: Actor, allow_root, expected: Result<bool, Code>| {
            let applied = cluster.run(
                actor,
                Body::ChangeSettings(ChangeSettings {
                    allow_root,
                    ..ChangeSettings::default()
                }),
            );
            let now = cluster
                .state
                .settings()
                .is_some_and(|settings| settings.allow_root);
            assert_eq!(
                applied
                    .refusal()
                    .map_or(Ok(now), |refusal| Err(refusal.code)),
                expected
            );
        };
        check(person("ann", false), Some(true), Err(Code::Denied));
        check(system(), Some(true), Err(Code::Denied));
        check(person("root", true), None, Ok(false));
        check(person("root", true), Some(true), Ok(true));
        check(person("root", true), None, Ok(true));
    }
}
