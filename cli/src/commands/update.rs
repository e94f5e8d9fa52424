//! `mlctl update`: change jobs in place. What is named is one command: all of it or none.
use mlctl_proto::api::UpdateRequest;
use mlctl_proto::spec::Edit;
use serde_json::{Map, Value};

use super::spec::amount;
use super::when::when;
use super::which;
use crate::args::{Global, UpdateArgs};
use crate::client::{Client, fresh_key, jobs, traced};
use crate::failure::Failure;
use crate::output::Output;

/// The word that takes a value away.
const NONE: &str = "none";

/// Changes the jobs of `args`.
pub async fn run(args: &UpdateArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let edit = edit(args)?;
    let filter = which::filter(&args.which)?;
    let mut client = Client::open(global)?;
    let request = UpdateRequest {
        key: fresh_key(),
        jobs: args.which.jobs.clone(),
        filter,
        edit,
    };
    let answer = client.call(|channel| {
        let request = traced(request.clone());
        async move { jobs(channel).update(request).await }
    });
    output.edited(&answer.await?, "changed");
    Ok(0)
}

/// The flags as keys of a spec with their new values.
fn edit(args: &UpdateArgs) -> Result<Vec<u8>, Failure> {
    let mut table = Map::new();
    for (key, value) in [
        ("nodes", &args.nodes),
        ("gpus", &args.gpus),
        ("array_limit", &args.at_once),
    ] {
        if let Some(value) = value {
            table.insert(key.into(), or_none(value, amount));
        }
    }
    for (key, value) in [
        ("time", &args.time),
        ("class", &args.class),
        ("name", &args.name),
    ] {
        if let Some(value) = value {
            table.insert(key.into(), or_none(value, |text| text.into()));
        }
    }
    for (key, flag, value) in [
        ("begin", "begin", &args.begin),
        ("start_by", "start-by", &args.start_by),
        ("end_by", "end-by", &args.end_by),
    ] {
        if let Some(value) = value {
            let at = when(flag, value)?;
            table.insert(key.into(), or_none(&at, |text| text.into()));
        }
    }
    match args.gpu.as_slice() {
        [] => {}
        [one] if one == NONE => drop(table.insert("gpu".into(), Value::Null)),
        types => drop(table.insert("gpu".into(), types.to_vec().into())),
    }
    if table.is_empty() {
        let why = "nothing to change: name what, such as `--time 4h` or `--class low`";
        return Err(Failure::usage(why.into()));
    }
    let json = serde_json::to_vec(&table).map_err(Failure::internal)?;
    let edit = Edit::parse(&json).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(edit.to_json())
}

fn or_none(text: &str, value: impl Fn(&str) -> Value) -> Value {
    if text == NONE {
        Value::Null
    } else {
        value(text)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn edited(flags: &[&str]) -> Result<String, u8> {
        let words = ["mlctl", "update", "7"].iter().chain(flags);
        let cli = Cli::try_parse_from(words).map_err(|_| 64_u8)?;
        let Command::Update(args) = cli.command else {
            return Err(0);
        };
        let edit = edit(&args).map_err(|failure| failure.exit())?;
        Ok(String::from_utf8_lossy(&edit).into_owned())
    }

    #[test]
    fn flags_become_keys() {
        for (flags, json) in [
            (
                &["--nodes", "2", "--time", "4h"][..],
                r#"{"nodes":2,"time":"4h"}"#,
            ),
            (&["--nodes", "2..8"], r#"{"nodes":"2..8"}"#),
            (
                &["--gpus", "0.5", "--gpu", "H100,A100:80GB"],
                r#"{"gpu":["H100","A100:80GB"],"gpus":"0.5"}"#,
            ),
            (
                &["--begin", "none", "--gpu", "none"],
                r#"{"begin":null,"gpu":null}"#,
            ),
            (&["--at-once", "8"], r#"{"array_limit":8}"#),
        ] {
            assert_eq!(edited(flags).as_deref(), Ok(json));
        }
        for flags in [
            &[][..],
            &["--at-once", "-1"],
            &["--at-once", "many"],
            &["--begin", "+x"],
        ] {
            assert_eq!(edited(flags), Err(64), "{flags:?}");
        }
    }
}
