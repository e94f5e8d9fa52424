//! SetSched: a setting of the scheduler, of all classes or of one. License: how many there are of a named countable. Nothing that runs is ended by either.
use mlctl_proto::errors::Refusal;
use mlctl_proto::ids::{check_name, clip};
use mlctl_proto::limits::LICENSE_COUNT_MAX;
use mlctl_proto::spec::Class;

use super::draft::Draft;
use super::refused;
use crate::state::records::{Decision, DecisionKey, SchedKey};
use crate::state::rules::sched;
use crate::state::view::jobs;
use crate::state::view::policy::SchedSettings;

/// A setting, as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSched {
    /// Which.
    pub key: SchedKey,
    /// Of one class alone.
    pub class: Option<Class>,
    /// One value, or a list; none: as shipped.
    pub values: Vec<u64>,
}

impl SetSched {
    pub(super) fn edit(&self, draft: &mut Draft) -> Result<(), Refusal> {
        let (key, word) = (self.key, self.key.word());
        if self.class.is_some() && !key.per_class() {
            let why = format!("`scheduling.{word}` is one for all classes: leave the class out");
            return Err(refused(why));
        }
        let before = sched::values(&draft.scheduling(), key);
        let shipped = sched::values(&SchedSettings::default(), key);
        let after = self.after(&before, &shipped);
        sched::check(key, &after).map_err(refused)?;
        let text = |values: &[u64]| sched::text(key, values);
        draft.change("scheduling", word, text(&before), text(&after));
        if after == shipped {
            draft.remove(DecisionKey::Setting(key));
        } else {
            draft.put(Decision::Setting(key, after));
        }
        Ok(())
    }

    fn after(&self, before: &[u64], shipped: &[u64]) -> Vec<u64> {
        if !self.key.per_class() {
            let own = Some(&self.values).filter(|values| !values.is_empty());
            return own.map_or_else(|| shipped.to_vec(), Clone::clone);
        }
        let class = self.class.map(|class| jobs::Class::from(class) as usize);
        let classes = before.iter().zip(shipped).enumerate();
        let value = |(place, (before, shipped)): (usize, (&u64, &u64))| {
            match class.is_none_or(|class| class == place) {
                false => *before,
                // One for all, or one for each.
                true => match self.values.as_slice() {
                    [] => *shipped,
                    [one] => *one,
                    several => several.get(place).copied().unwrap_or(0),
                },
            }
        };
        classes.map(value).collect()
    }
}

/// How many there are of a named countable.
pub(super) fn license(draft: &mut Draft, name: &str, total: Option<u32>) -> Result<(), Refusal> {
    if let Err(error) = check_name(name) {
        return Err(refused(format!(
            "the countable `{}`: it {error}",
            clip(name)
        )));
    }
    if let Some(total) = total.filter(|total| !(1..=LICENSE_COUNT_MAX).contains(total)) {
        return Err(refused(format!(
            "{total} of `{name}`: use 1 to {LICENSE_COUNT_MAX}, or `shipped` to take it away"
        )));
    }
    let key = DecisionKey::License(name.to_owned());
    let before = match draft.get(&key) {
        Some(Decision::License(_, total)) => Some(*total),
        _ => None,
    };
    let text = |total: Option<u32>| total.map(|total| total.to_string()).unwrap_or_default();
    draft.change("licenses", name, text(before), text(total));
    let held = draft
        .state
        .licenses()
        .get(name)
        .map_or(0, |(_, held)| *held);
    if held > total.unwrap_or(0) {
        draft.note(format!(
            "jobs that run hold {held} of `{name}`: nothing is ended, and no other job that needs it starts until fewer are held"
        ));
    }
    match total {
        Some(total) => draft.put(Decision::License(name.to_owned(), total)),
        None => draft.remove(key),
    }
    Ok(())
}
