//! Which id belongs to which coordinator.
//!
//! It reads the text that consensus keeps for each member, and prefers the configuration's address for a name that it
//! lists. It dials nobody.
use serde::{Deserialize, Serialize};

use crate::config::{Config, Member};
use crate::consensus::{MemberId, Membership};

/// What consensus keeps for a member. Persisted: fields are only added.
#[derive(Debug, Serialize, Deserialize)]
struct Info {
    name: String,
    address: String,
}

/// What consensus is to keep for a member.
pub fn info(name: &str, address: &str) -> String {
    let info = Info {
        name: name.to_owned(),
        address: address.to_owned(),
    };
    // Two strings always have a JSON form.
    serde_json::to_string(&info).unwrap_or_default()
}

/// The name in what consensus keeps for `id`, if there is any.
pub fn name_of(members: &Membership, id: MemberId) -> Option<String> {
    parse(members.info.get(&id)?).map(|info| info.name)
}

/// The name in a text that consensus keeps for a member.
pub fn name_in(text: &str) -> Option<String> {
    parse(text).map(|info| info.name)
}

fn parse(text: &str) -> Option<Info> {
    serde_json::from_str(text).ok()
}

/// The founders of a new cluster, as configured.
pub fn founders(config: &Config) -> Membership {
    let members = config.members.iter();
    Membership::founded(members.map(|member| (member.id, info(&member.name, &member.address))))
}

/// Every member that Raft knows, with its name and where it is reached.
pub fn known(config: &Config, members: &Membership) -> Vec<Member> {
    let named = members.info.iter().filter_map(|(id, text)| {
        let Info { name, address } = parse(text)?;
        let configured = config.members.iter().find(|member| member.name == name);
        let address = configured.map_or(address, |member| member.address.clone());
        Some(Member {
            name,
            id: *id,
            address,
        })
    });
    named.collect()
}

/// The configured members in their order, each with the id under which it leads, learns or votes now.
pub fn current(config: &Config, members: &Membership, leader: Option<MemberId>) -> Vec<Member> {
    let known = known(config, members);
    let now = |configured: &Member| {
        let mut same = known
            .iter()
            .filter(|member| member.name == configured.name)
            .collect::<Vec<_>>();
        // While it re-joins it has two ids; it is the new one, unless the old one was alive all the time and leads.
        same.sort_by_key(|member| (leader != Some(member.id), !members.joins(member.id)));
        let id = same.first().map_or(configured.id, |member| member.id);
        Member {
            id,
            ..configured.clone()
        }
    };
    config.members.iter().map(now).collect()
}
