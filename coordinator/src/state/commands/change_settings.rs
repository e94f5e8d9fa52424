//! ChangeSettings: an admin changes what may change while the cluster runs. Fields that are absent stay.
use mlctl_proto::errors::Refusal;

use super::Context;
use crate::state::change::Change;
use crate::state::records::Reply;

/// What to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeSettings {
    /// Whether jobs may run as root.
    pub allow_root: Option<bool>,
}

impl ChangeSettings {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_admin()?;
        let mut settings = change.settings()?;
        if let Some(allow_root) = self.allow_root {
            settings.allow_root = allow_root;
        }
        change.put_settings(settings);
        Ok(Reply::Done)
    }
}

#[cfg(test)]
mod tests {
    use mlctl_proto::errors::Code;

    use super::*;
    use crate::state::Body;
    use crate::state::records::Actor;
    use crate::state::testing::{Cluster, person, system};

    #[test]
    fn admins_only() {
        let mut cluster = Cluster::new();
        let mut check = |actor: Actor, allow_root, expected: Result<bool, Code>| {
            let applied = cluster.run(actor, Body::ChangeSettings(ChangeSettings { allow_root }));
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
