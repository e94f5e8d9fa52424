//! RenewCharges: commitments at budgets that end soon are renewed, so that nothing runs that is not covered (docs/QUOTAS.md, Budgets). The leader proposes it in time;
//! which attempts it is about is decided here.
use mlctl_proto::errors::Refusal;

use super::{Context, accounts};
use crate::state::change::Change;
use crate::state::records::Reply;

/// Attempts in one command.
pub const RENEW_CHARGES_MAX: usize = 1_024;

/// Renew what is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewCharges {
    /// At most so many attempts, the first that are due.
    pub most: u32,
}

impl RenewCharges {
    pub(super) fn apply(&self, change: &mut Change, context: &Context) -> Result<Reply, Refusal> {
        context.require_system()?;
        let most = usize::try_from(self.most)
            .map_or(RENEW_CHARGES_MAX, |most| most.min(RENEW_CHARGES_MAX));
        let due: Vec<_> = change
            .state()
            .charges_due(context.now_ms)
            .take(most)
            .collect();
        for key in due {
            accounts::renew(change, key, context.now_ms)?;
        }
        Ok(Reply::Done)
    }
}
