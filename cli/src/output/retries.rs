//! What failed attempts of a job led to, as lines for people.
use mlctl_proto::api::{Job, Retries};

/// Nothing, if nothing failed.
pub(super) fn lines(job: &Job) -> Vec<String> {
    let Some(retries) = &job.retries else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    lines.extend(restarts(retries));
    if !retries.excluded.is_empty() && job.ended_ms == 0 {
        let nodes = retries.excluded.iter();
        let nodes: Vec<String> = nodes
            .map(|one| format!("{} ({})", one.node, one.why))
            .collect();
        lines.push(format!("avoids   {}", nodes.join(", ")));
    }
    lines
}

fn restarts(retries: &Retries) -> Option<String> {
    let allowed = match retries.max {
        None => String::new(),
        Some(max) => format!(", {} of the {max} that the spec allows", retries.used),
    };
    let lost = match retries.losses {
        0 => String::new(),
        1 => ", after 1 lost node or agent".to_owned(),
        losses => format!(", after {losses} lost nodes or agents"),
    };
    let happened = retries.restarts > 0 || retries.losses > 0;
    happened.then(|| format!("restarts {}{allowed}{lost}", retries.restarts))
}

#[cfg(test)]
mod tests {
    use mlctl_proto::api::ExcludedNode;

    use super::*;

    #[test]
    fn what_happened_is_told_and_nothing_else() {
        let quiet = Job {
            retries: Some(Retries::default()),
            ..Job::default()
        };
        assert!(lines(&quiet).is_empty());
        let job = Job {
            retries: Some(Retries {
                restarts: 3,
                used: 2,
                max: Some(5),
                losses: 1,
                excluded: vec![ExcludedNode {
                    node: "n1".into(),
                    why: "NodeLost".into(),
                }],
                ..Retries::default()
            }),
            ..Job::default()
        };
        assert_eq!(
            lines(&job),
            [
                "restarts 3, 2 of the 5 that the spec allows, after 1 lost node or agent",
                "avoids   n1 (NodeLost)"
            ]
        );
    }
}
