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

/// The configured members in their order, each with the id under which it leads, learns or votes now. `own` is the id of the one
/// that asks: while it joins again, it may be known to the others and not yet to itself.
pub fn current(
    config: &Config,
    own: MemberId,
    members: &Membership,
    leader: Option<MemberId>,
) -> Vec<Member> {
    let known = known(config, members);
    let now = |configured: &Member| {
        let mut same = known
            .iter()
            .filter(|member| member.name == configured.name)
            .collect::<Vec<_>>();
        // While it re-joins it has two ids; it is the new one, unless the old one was alive all the time and leads.
        same.sort_by_key(|member| (leader != Some(member.id), !members.joins(member.id)));
        let id = match same.first() {
            _ if configured.name == config.name => own,
            Some(member) => member.id,
            None => configured.id,
        };
        Member {
            id,
            ..configured.clone()
        }
    };
    config.members.iter().map(now).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As c2 sees it.
    fn config() -> Config {
        let mut text = "name = \"c2\"\ndata_dir = \"/d\"\nidentity = \"/i\"\nlisten = \"127.0.0.1:7070\"\ncluster_name = \"lab\"\n".to_owned();
        for n in 1..=3 {
            text += &format!(
                "[[members]]\nname = \"c{n}\"\nid = {n}\naddress = \"127.0.0.{n}:7070\"\n"
            );
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("coordinator.toml");
        std::fs::write(&path, text).expect("written");
        Config::load(&path, false).expect("a configuration")
    }

    #[test]
    fn who_joins_again_does_not_take_itself_for_its_older_self() {
        let config = config();
        let mut members = founders(&config);
        let ids = |own, members: &Membership| -> Vec<MemberId> {
            let current = current(&config, own, members, Some(1));
            current.into_iter().map(|member| member.id).collect()
        };
        assert_eq!(ids(2, &members), [1, 2, 3]);
        // The others have let 77 in, and it has not heard of that.
        assert_eq!(ids(77, &members), [1, 77, 3]);
        assert!(!members.votes(77) && members.votes(2));
        members.learners = vec![77];
        members.info.insert(77, info("c2", "127.0.0.2:7070"));
        assert_eq!(ids(77, &members), [1, 77, 3]);
    }
}
