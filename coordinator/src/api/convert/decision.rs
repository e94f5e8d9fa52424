//! What admins decide, as people and programs write and see it. Settings are named by keys: `scheduling.policy`, `scheduling.age_limit.high`, `licenses.ansys`,
//! `pools.spot.teams`; `shipped` as a value takes a decision back. (A team may be named `default`.) Whether a value makes sense is the command's business.
use mlctl_proto::api::{self, decision_edit::What};
use mlctl_proto::errors::{Code, Refusal};
use mlctl_proto::ids::clip;
use mlctl_proto::spec::{Class, Time};
use mlctl_proto::units::UtcMs;

use crate::state::State;
use crate::state::commands::{
    DecisionEdit, POOL_TEXTS, SetMaintenance, SetOwner, SetPause, SetPool, SetSched,
};
use crate::state::records::{
    Automatic, Decision, Maintenance, Node, NodeOwner, Pause, SchedKey, Target, guests_word,
    moment_text, sharing_word,
};
use crate::state::rules::sched;
use crate::state::view::nodes::{Guests, Sharing};
use crate::state::view::policy::SchedSettings;

/// The word for a value as it is shipped.
const SHIPPED: &str = "shipped";

fn bad(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadRequest, why)
}

/// An edit as a command has it.
pub fn edit(edit: api::DecisionEdit) -> Result<DecisionEdit, Refusal> {
    let what = edit.what.ok_or_else(|| bad("a decision says nothing"))?;
    Ok(match what {
        What::Set(set) => setting(&set.key, set.value.trim())?,
        What::Pause(set) => DecisionEdit::Pause(SetPause {
            what: automatic(&set.what)?,
            pool: set.pool,
            for_ms: set.for_ms,
            reason: set.reason,
        }),
        What::Resume(resume) => DecisionEdit::Resume(automatic(&resume.what)?, resume.pool),
        What::Maintenance(set) => DecisionEdit::Maintenance(SetMaintenance {
            target: match (set.node.as_str(), set.pool.as_str()) {
                (node, "") => Target::Node(node.to_owned()),
                ("", pool) => Target::Pool(pool.to_owned()),
                _ => return Err(bad("maintenance is of a node or of a pool, not of both")),
            },
            from_ms: set.from_ms,
            for_ms: set.for_ms,
            reason: set.reason,
        }),
        What::Cancel(cancel) => DecisionEdit::Cancel(cancel.id),
        What::Owner(set) => DecisionEdit::Owner(SetOwner {
            guests: guests(&set.guests)?,
            node: set.node,
            team: set.team,
            guest_grace_ms: set.guest_grace_ms,
        }),
    })
}

fn automatic(word: &str) -> Result<Automatic, Refusal> {
    let found = Automatic::ALL.into_iter().find(|one| one.word() == word);
    found.ok_or_else(|| {
        let words = Automatic::ALL.map(Automatic::word).join(", ");
        bad(format!(
            "`{}` cannot be paused: use one of {words}",
            clip(word)
        ))
    })
}

fn guests(word: &str) -> Result<Guests, Refusal> {
    let all = [Guests::None, Guests::Preemptible, Guests::Any];
    let found = all.into_iter().find(|one| guests_word(*one) == word);
    let found = found.or_else(|| word.is_empty().then_some(Guests::Preemptible));
    let why = || format!("guests are none, preemptible or any, not `{}`", clip(word));
    found.ok_or_else(|| bad(why()))
}

/// `KEY=VALUE`.
fn setting(key: &str, value: &str) -> Result<DecisionEdit, Refusal> {
    let unknown = || {
        let keys = SchedKey::ALL.map(SchedKey::word).join(", ");
        bad(format!(
            "there is no setting `{}`: use scheduling.KEY ({keys}), licenses.NAME, or pools.POOL.KEY (teams, classes, max_time, share)",
            clip(key)
        ))
    };
    if value.is_empty() {
        let why = format!(
            "`{}` has no value: write {SHIPPED} for the shipped one",
            clip(key)
        );
        return Err(bad(why));
    }
    match key.split_once('.') {
        Some(("licenses", name)) => {
            let total = match value {
                SHIPPED => None,
                text => Some(number(key, text)?),
            };
            let total = total.map(u32::try_from).transpose();
            let total = total.map_err(|_| bad(format!("`{key}` is too large")))?;
            Ok(DecisionEdit::License(name.to_owned(), total))
        }
        Some(("scheduling", rest)) => {
            let (word, class) = match rest.split_once('.') {
                Some((word, class)) => (word, Some(self::class(class)?)),
                None => (rest, None),
            };
            let found = SchedKey::ALL.into_iter().find(|one| one.word() == word);
            let found = found.ok_or_else(unknown)?;
            let values = match value {
                SHIPPED => Vec::new(),
                text => values(key, found, text)?,
            };
            let key = found;
            Ok(DecisionEdit::Setting(SetSched { key, class, values }))
        }
        Some(("pools", rest)) => {
            // A pool's name may have dots in it.
            let (pool, word) = rest.rsplit_once('.').ok_or_else(unknown)?;
            pool_rule(pool, word, value)?
                .ok_or_else(unknown)
                .map(DecisionEdit::Pool)
        }
        _ => Err(unknown()),
    }
}

fn number(key: &str, text: &str) -> Result<u64, Refusal> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    let why = || format!("`{}` is a whole number, not `{}`", clip(key), clip(text));
    number.ok_or_else(|| bad(why()))
}

fn length(key: &str, text: &str) -> Result<u64, Refusal> {
    let time: Result<Time, String> = text.parse();
    let time = time.map_err(|why| bad(format!("`{}` {why}", clip(key))))?;
    Ok(time.ms())
}

fn class(word: &str) -> Result<Class, Refusal> {
    let why = || {
        format!(
            "`{}` is no class: use low, normal, high or critical",
            clip(word)
        )
    };
    Class::of_word(word).ok_or_else(|| bad(why()))
}

fn values(key: &str, which: SchedKey, text: &str) -> Result<Vec<u64>, Refusal> {
    let parts = text.split(',').map(str::trim);
    let one = |text: &str| match which {
        SchedKey::Policy => match text {
            "fair" => Ok(0),
            "las" => Ok(1),
            other => Err(bad(format!(
                "`{key}` is fair or las, not `{}`",
                clip(other)
            ))),
        },
        SchedKey::KeepGpuShare => match text {
            "true" => Ok(1),
            "false" => Ok(0),
            other => Err(bad(format!(
                "`{key}` is true or false, not `{}`",
                clip(other)
            ))),
        },
        SchedKey::Reservations | SchedKey::LasPromote => number(key, text),
        _ => length(key, text),
    };
    parts.map(one).collect()
}

fn pool_rule(pool: &str, word: &str, value: &str) -> Result<Option<SetPool>, Refusal> {
    let key = format!("pools.{}.{}", clip(pool), clip(word));
    let parts = || {
        value
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
    };
    let shipped = value == SHIPPED;
    let mut set = SetPool {
        pool: pool.to_owned(),
        ..SetPool::default()
    };
    match word {
        "teams" if shipped => set.teams = Some(Vec::new()),
        "teams" => set.teams = Some(parts().map(str::to_owned).collect()),
        "classes" if shipped => set.classes = Some(Vec::new()),
        "classes" => set.classes = Some(parts().map(class).collect::<Result<_, _>>()?),
        "max_time" if shipped => set.max_time_ms = Some(0),
        "max_time" => set.max_time_ms = Some(length(&key, value)?),
        "share" if shipped => set.sharing = Some(Sharing::User),
        "share" => {
            let all = [Sharing::User, Sharing::Team, Sharing::Any];
            let found = all.into_iter().find(|one| sharing_word(*one) == value);
            let why = || format!("`{key}` is user, team or any, not `{}`", clip(value));
            set.sharing = Some(found.ok_or_else(|| bad(why()))?);
        }
        _ => return Ok(None),
    }
    Ok(Some(set))
}

/// Everything that is decided now.
pub fn shown(state: &State, now_ms: UtcMs) -> api::Decisions {
    let licenses = state.licenses().into_iter();
    let licenses = licenses.map(|(name, (total, held))| api::License { name, total, held });
    let mut windows: Vec<&Maintenance> = (state.maintenance())
        .filter(|one| one.until_ms > now_ms)
        .collect();
    windows.sort_by_key(|one| (one.from_ms, one.until_ms, one.id));
    let owners = state.decisions().filter_map(|one| match one.as_ref() {
        Decision::Owner(owner) => Some(self::owner(owner)),
        _ => None,
    });
    api::Decisions {
        settings: settings(state),
        pauses: state.pauses(now_ms).map(pause).collect(),
        maintenance: windows.into_iter().map(maintenance).collect(),
        owners: owners.collect(),
        licenses: licenses.collect(),
        index: state.applied_index(),
        now_ms,
    }
}

/// Every key that may be set, with its value.
fn settings(state: &State) -> Vec<api::Setting> {
    let (now, shipped) = (state.scheduling(), SchedSettings::default());
    let mut all: Vec<api::Setting> = Vec::new();
    for key in SchedKey::ALL {
        let values = sched::values(&now, key);
        all.push(api::Setting {
            key: format!("scheduling.{}", key.word()),
            value: sched::text(key, &values),
            shipped: values == sched::values(&shipped, key),
        });
    }
    for one in state.decisions() {
        match one.as_ref() {
            Decision::License(name, total) => all.push(api::Setting {
                key: format!("licenses.{name}"),
                value: total.to_string(),
                shipped: false,
            }),
            Decision::Pool(rules) => {
                let texts = POOL_TEXTS.iter().map(|(word, text)| (word, text(rules)));
                let said = texts.filter(|(_, text)| !text.is_empty());
                all.extend(said.map(|(word, value)| api::Setting {
                    key: format!("pools.{}.{word}", rules.pool),
                    value,
                    shipped: false,
                }));
            }
            _ => {}
        }
    }
    all
}

/// A pause.
pub fn pause(pause: &Pause) -> api::Pause {
    api::Pause {
        what: pause.what.word().to_owned(),
        pool: pause.pool.clone(),
        until_ms: pause.until_ms,
        reason: pause.reason.clone(),
        by: pause.by.name.clone(),
        since_ms: pause.by.at_ms,
        text: pause.text(),
    }
}

/// Pauses of what jobs wait for.
pub fn pauses_of_jobs(state: &State, now_ms: UtcMs) -> Vec<api::Pause> {
    let of_jobs = |one: &&Pause| matches!(one.what, Automatic::Starts | Automatic::Preemption);
    state.pauses(now_ms).filter(of_jobs).map(pause).collect()
}

fn maintenance(one: &Maintenance) -> api::Maintenance {
    let (node, pool) = match &one.target {
        Target::Node(name) => (name.clone(), String::new()),
        Target::Pool(name) => (String::new(), name.clone()),
    };
    api::Maintenance {
        id: one.id,
        node,
        pool,
        from_ms: one.from_ms,
        until_ms: one.until_ms,
        reason: one.reason.clone(),
        by: one.by.name.clone(),
    }
}

/// Times of maintenance of a node.
pub fn maintenance_of(state: &State, node: &Node) -> Vec<api::Maintenance> {
    let all = state.maintenance_of(node, state.now_ms());
    all.into_iter().map(maintenance).collect()
}

/// What keeps work from a node, or will, by an admin's word.
pub fn reasons(state: &State, node: &Node) -> Vec<String> {
    let now_ms = state.now_ms();
    let here = state
        .pauses(now_ms)
        .filter(|one| one.pool == node.facts.pool);
    let mut reasons: Vec<String> = here.map(Pause::text).collect();
    reasons.extend(state.maintenance_of(node, now_ms).into_iter().map(|one| {
        let (from, until) = (moment_text(one.from_ms), moment_text(one.until_ms));
        let (id, reason) = (one.id, &one.reason);
        format!("maintenance {id} from {from} to {until}: {reason}")
    }));
    reasons
}

/// An owner of a node.
pub fn owner(owner: &NodeOwner) -> api::NodeOwner {
    api::NodeOwner {
        node: owner.node.clone(),
        team: owner.team.clone(),
        guests: guests_word(owner.guests).to_owned(),
        guest_grace_ms: owner.guest_grace_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Body;
    use crate::state::commands::Decide;
    use crate::state::testing::{Cluster, person};

    fn read(key: &str, value: &str) -> Result<DecisionEdit, String> {
        setting(key, value).map_err(|refusal| refusal.message)
    }

    #[test]
    fn what_is_shown_may_be_set_and_is_shown_again() {
        let mut cluster = Cluster::new();
        cluster.gpu_node("a", 1);
        let pairs = [
            ("scheduling.policy", "las"),
            ("scheduling.age_limit.high", "12h"),
            ("scheduling.grace", "10m,5m,5m,1m"),
            ("scheduling.las_thresholds", "1h,20h"),
            ("scheduling.keep_gpu_share", "false"),
            ("licenses.ansys", "2"),
            ("pools.default.teams", "default"),
            ("pools.default.classes", "low,normal"),
            ("pools.default.max_time", "1d"),
            ("pools.default.share", "any"),
        ];
        let edits = pairs
            .map(|(key, value)| read(key, value).expect(key))
            .to_vec();
        let applied = cluster.run(person("root", true), Body::Decide(Decide { edits }));
        assert!(applied.refusal().is_none(), "{:?}", applied.reply);
        let settings = settings(&cluster.state);
        assert_eq!(settings.len(), SchedKey::ALL.len() + 5);
        let changed = settings.iter().filter(|one| !one.shipped).count();
        assert_eq!(changed, pairs.len());
        let digest = cluster.state.digest();
        let again = settings
            .iter()
            .map(|one| read(&one.key, &one.value).expect(&one.key));
        let edits = again.collect();
        let applied = cluster.run(person("root", true), Body::Decide(Decide { edits }));
        assert!(applied.refusal().is_none(), "{:?}", applied.reply);
        let shown = super::settings(&cluster.state);
        assert_eq!(shown, settings, "{digest:?}");
        let edits = settings
            .iter()
            .map(|one| read(&one.key, SHIPPED).expect(&one.key));
        let edits = edits.collect();
        cluster.run(person("root", true), Body::Decide(Decide { edits }));
        assert!(
            super::settings(&cluster.state)
                .iter()
                .all(|one| one.shipped)
        );
    }

    #[test]
    fn what_is_no_setting_is_refused_and_it_is_said_what_is() {
        for (key, value, part) in [
            ("scheduling.polcy", "las", "las_thresholds"),
            ("policy", "las", "there is no setting"),
            ("pools.spot", "x", "there is no setting"),
            ("pools.spot.color", "x", "there is no setting"),
            ("scheduling.policy", "", "has no value"),
            ("scheduling.policy", "fifo", "fair or las"),
            ("scheduling.reservations", "-1", "whole number"),
            ("scheduling.reservations", "NaN", "whole number"),
            (
                "scheduling.reservations",
                "99999999999999999999",
                "whole number",
            ),
            ("scheduling.age_limit", "0s", "write days"),
            ("scheduling.age_limit", "-1h", "write days"),
            ("scheduling.age_limit.urgent", "1h", "no class"),
            ("licenses.ansys", "99999999999", "too large"),
            ("pools.spot.share", "all", "user, team or any"),
        ] {
            let why = read(key, value).expect_err(part);
            assert!(why.contains(part), "{key}={value}: {why}");
        }
    }
}
