//! Which jobs a command is about: what `--where` says, as a request says it. Asks nobody.
use mlctl_proto::api::JobFilter;

use crate::args::WhichArgs;
use crate::failure::Failure;

/// The filter of `args`; `None`: jobs are named by their ids.
pub fn filter(args: &WhichArgs) -> Result<Option<JobFilter>, Failure> {
    if args.filter.is_empty() {
        return Ok(None);
    }
    let mut filter = JobFilter::default();
    for pair in &args.filter {
        let Some((key, value)) = pair.split_once('=').filter(|(_, value)| !value.is_empty()) else {
            let why = format!("--where {pair}: write KEY=VALUE, such as state=Pending");
            return Err(Failure::usage(why));
        };
        let field = match key {
            "user" => &mut filter.user,
            "team" => &mut filter.team,
            "name" => &mut filter.name,
            "state" => &mut filter.state,
            "class" => &mut filter.class,
            _ => {
                let why = format!("--where {pair}: the key is user, team, name, state or class");
                return Err(Failure::usage(why));
            }
        };
        if !field.is_empty() {
            return Err(Failure::usage(format!(
                "--where {key} is given twice: give it once"
            )));
        }
        value.clone_into(field);
    }
    Ok(Some(filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(filter: &[&str]) -> WhichArgs {
        WhichArgs {
            jobs: Vec::new(),
            filter: filter.iter().map(|pair| (*pair).to_owned()).collect(),
        }
    }

    #[test]
    fn pairs_become_a_filter() {
        let found = filter(&args(&["user=me", "name=sweep-*=1", "state=Pending"]))
            .ok()
            .flatten();
        let want = JobFilter {
            user: "me".into(),
            name: "sweep-*=1".into(),
            state: "Pending".into(),
            ..JobFilter::default()
        };
        assert_eq!(found, Some(want));
        assert_eq!(filter(&args(&[])).ok(), Some(None));
        for pairs in [
            &["user"][..],
            &["user="],
            &["owner=x"],
            &["user=a", "user=b"],
            &["=x"],
        ] {
            assert_eq!(
                filter(&args(pairs)).err().map(|failure| failure.exit()),
                Some(64),
                "{pairs:?}"
            );
        }
    }
}
