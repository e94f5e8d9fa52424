//! How urgent a job is. The word alone: what follows from it is the scheduler's business.
use serde::{Deserialize, Serialize};

/// The first key of the order in which jobs start; strict.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// After all others.
    Low,
    /// Unless somebody says otherwise.
    #[default]
    Normal,
    /// Before those.
    High,
    /// Before all others.
    Critical,
}

impl Class {
    /// All of them with their words, the least urgent first.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Low, "low"),
        (Self::Normal, "normal"),
        (Self::High, "high"),
        (Self::Critical, "critical"),
    ];

    /// Its word in a spec.
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The class of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|(_, known)| *known == word)
            .map(|(class, _)| class)
    }

    /// The default, which a canonical spec does not mention.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
