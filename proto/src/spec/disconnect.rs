//! What becomes of a job whose node falls silent. The word alone: what follows from it is the coordinator's and the keeper's business.
use serde::{Deserialize, Serialize};

/// Silence alone never says whether a machine is dead or only cut off. What counts then is the user's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// It starts again elsewhere as soon as its node is Lost. For a while two attempts may run; only one counts.
    #[default]
    Replace,
    /// Its keeper ends it before its node is Lost, so that two attempts never run at once.
    Fence,
    /// It starts again only on proof that the old attempt is dead, or when an admin says so.
    Hold,
}

impl OnDisconnect {
    /// All of them with their words.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::Replace, "replace"),
        (Self::Fence, "fence"),
        (Self::Hold, "hold"),
    ];

    /// Its word in a spec.
    pub fn word(self) -> &'static str {
        let found = Self::ALL.into_iter().find(|(policy, _)| *policy == self);
        found.map_or("", |(_, word)| word)
    }

    /// The default, which a canonical spec does not mention.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
