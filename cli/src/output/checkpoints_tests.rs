//! Tests of how checkpoints are told.
use mlctl_proto::units::metric_bits;

use super::*;
use crate::advice::{self, NODE_MTBF_DAYS};

fn ago(_: i64) -> String {
    "3 min".into()
}

fn checkpoint() -> Checkpoint {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let part = |index, manifest: &str, holders: &[&str]| CheckpointPart {
        index,
        manifest: manifest.into(),
        bytes: 22_119_000_000,
        holders: names(holders),
        uploaded: false,
    };
    Checkpoint {
        name: "step-9000".into(),
        step: 9_000,
        holders: names(&["gpu-03", "gpu-07"]),
        durability: "1/1".into(),
        sealed_ms: 1_000,
        attempt: 2,
        bytes: 44_238_000_000,
        pinned: true,
        metric: metric_bits(1.91),
        save_ms: 12_000,
        parts: vec![
            part(0, &"ab".repeat(32), &["gpu-03", "gpu-07"]),
            part(1, "", &[]),
        ],
        uploaded: false,
    }
}

#[test]
fn a_checkpoint_is_one_line() {
    assert_eq!(
        line(&checkpoint(), "val_loss", ago),
        "step-9000  41.1 GiB  sealed 3 min ago  val_loss 1.91  durability 1/1  gpu-03, gpu-07  pinned"
    );
    let local = Checkpoint {
        name: "a\x1b[2J".into(),
        durability: "local".into(),
        holders: vec!["n1".into()],
        ..Checkpoint::default()
    };
    let text = line(&local, "", ago);
    assert_eq!(text, "a\u{fffd}[2J  sealed 3 min ago  durability local  n1");
}

#[test]
fn what_every_node_sees_is_said_to_be_shared() {
    let part = CheckpointPart {
        holders: vec!["n1".into()],
        ..CheckpointPart::default()
    };
    let shared = Checkpoint {
        name: "step-1".into(),
        durability: "shared".into(),
        holders: vec!["n1".into()],
        parts: vec![part],
        ..Checkpoint::default()
    };
    assert_eq!(
        line(&shared, "", ago),
        "step-1  sealed 3 min ago  durability shared  n1"
    );
    let text = details(&Job::default(), &shared, ago).join("\n");
    assert!(text.contains("mlctl copies nothing of it"), "{text}");
    assert!(text.contains("every node sees, found by n1"), "{text}");
    assert!(text.contains("size     not known"), "{text}");
}

#[test]
fn what_was_uploaded_is_said() {
    let job = Job {
        spec: br#"{"checkpoint":{"dir":"c","upload":"s3://runs/a"}}"#.to_vec(),
        ..Job::default()
    };
    let mut one = checkpoint();
    let said = |one: &Checkpoint| details(&job, one, ago)[6..].to_vec();
    assert_eq!(said(&one)[0], "uploaded not yet to s3://runs/a");
    one.parts[1] = one.parts[0].clone();
    one.parts[1].uploaded = true;
    assert_eq!(said(&one)[0], "uploaded 1 of 2 parts to s3://runs/a");
    one.parts[0].uploaded = true;
    one.uploaded = true;
    assert_eq!(said(&one)[0], "uploaded to s3://runs/a");
    let listed = ListedCheckpoint {
        checkpoint: Some(one.clone()),
        ..ListedCheckpoint::default()
    };
    assert_eq!(cells(&listed, ago)[7], "uploaded");
    // All nodes are gone that had it.
    one.holders.clear();
    one.parts[0].holders.clear();
    one.pinned = false;
    one.durability = "0/1".into();
    assert_eq!(
        line(&one, "", ago),
        "step-9000  41.1 GiB  sealed 3 min ago  metric 1.91  durability 0/1  uploaded"
    );
    let lines = said(&one);
    assert_eq!(
        lines[1],
        "part 0   20.5 GiB on no node, uploaded  abababababab"
    );
    let value = value(&one);
    assert_eq!(
        (&value["uploaded"], &value["parts"][0]["uploaded"]),
        (&json!(true), &json!(true))
    );
}

#[test]
fn a_list_has_a_cell_for_each_title() {
    let mut listed = ListedCheckpoint {
        job: "412".into(),
        metric_name: "val_loss".into(),
        nodes: 2,
        checkpoint: Some(checkpoint()),
        ..ListedCheckpoint::default()
    };
    let wanted = [
        "412",
        "step-9000",
        "41.1 GiB",
        "3 min ago",
        "val_loss 1.91",
        "1/1",
        "gpu-03, gpu-07",
        "",
        "pinned",
    ];
    assert_eq!(cells(&listed, ago), wanted);
    assert_eq!(HEAD.len(), wanted.len());
    // A gang of many: the list has the first few.
    listed.nodes = 900;
    let many = (0..16).map(|at| format!("n{at}"));
    let one = listed.checkpoint.as_mut().expect("it is there");
    one.holders = many.collect();
    assert_eq!(
        cells(&listed, ago)[6],
        "n0, n1, n2, n3, n4, n5 and 894 more"
    );
    let value = listed_value(&listed);
    assert_eq!(
        (&value["job"], &value["nodes"]),
        (&json!("412"), &json!(900))
    );
    assert!(value.get("parts").is_none());
    assert_eq!(cells(&ListedCheckpoint::default(), ago).len(), HEAD.len());
}

#[test]
fn details_say_who_has_which_part() {
    let job = Job {
        id: "412".into(),
        name: "llama".into(),
        spec: br#"{"checkpoint":{"dir":"c","keep_best":"val_loss:min:1"}}"#.to_vec(),
        ..Job::default()
    };
    assert_eq!(
        details(&job, &checkpoint(), ago),
        [
            "step-9000 of job 412 llama, attempt 2",
            "step     9000",
            "size     41.1 GiB in 2 parts",
            "sealed   3 min ago, the save took 12 s",
            "metric   val_loss 1.91",
            "durable  1 of 1 copies beside the first are there",
            "pinned   it stays until `mlctl checkpoint unpin 412 step-9000`",
            "part 0   20.5 GiB on gpu-03, gpu-07  abababababab",
            "part 1   nothing: this node of the attempt wrote nothing for it",
        ]
    );
    let value = value(&checkpoint());
    assert_eq!(value["metric"], json!(1.91));
    assert_eq!(value["uploaded"], json!(false));
    assert_eq!(value["parts"][0]["manifest"], json!("ab".repeat(32)));
    assert_eq!(value["parts"][1]["manifest"], Value::Null);
}

#[test]
fn numbers_are_short() {
    for (value, text) in [
        (0.0, "0"),
        (1.91, "1.91"),
        (-0.123_456, "-0.1235"),
        (100.0, "100"),
        (2.5e-7, "2.500e-7"),
        (1e12, "1.000e12"),
        (f64::INFINITY, "inf"),
    ] {
        assert_eq!(number(value), text);
    }
}

#[test]
fn advice_is_short_and_says_what_it_assumes() {
    let mut job = Job {
        nodes: 8,
        checkpoints: vec![checkpoint(), checkpoint(), checkpoint()],
        ..Job::default()
    };
    for (at, one) in job.checkpoints.iter_mut().enumerate() {
        one.sealed_ms = 1 + 900_000 * at as i64;
        one.save_ms = 60_000;
    }
    let told = advice::advice(&job, NODE_MTBF_DAYS).expect("enough");
    assert_eq!(
        advice_lines(&told),
        [
            "advice   a checkpoint every 15 min (median of those listed): a failure costs about 7 min of work",
            "         a save takes 60 s; with a failure every 32 d on 8 nodes, saves and failures cost 6.68 % of the time now",
            "         better: 5 h 7 min of work between saves (Young 1974: 5 h 8 min, Daly 2006: 5 h 7 min), which costs 0.65 %",
            "         assumed: a node fails every 264 days (reported of Llama 3: 419 failures in 54 days on 2,048 nodes is 264); MLCTL_NODE_MTBF_DAYS says otherwise",
        ]
    );
    let value = advice_value(Some(&told));
    assert_eq!(
        (&value["nodes"], &value["interval_s"]),
        (&json!(8), &json!(900.0))
    );
    assert!(value["daly_s"].is_f64());
    assert_eq!(advice_value(None), Value::Null);
    // Saved as often as is best.
    let best = told.save.expect("known").daly_s as i64 * 1_000;
    for (at, one) in job.checkpoints.iter_mut().enumerate() {
        one.sealed_ms = 1 + best * at as i64;
    }
    let told = advice::advice(&job, NODE_MTBF_DAYS).expect("enough");
    assert!(advice_lines(&told)[2].contains("about the best"));
    job.checkpoints.iter_mut().for_each(|one| one.save_ms = 0);
    let told = advice::advice(&job, NODE_MTBF_DAYS).expect("enough");
    assert!(advice_lines(&told)[1].contains("is not known"));
    assert_eq!(advice_value(Some(&told))["save_s"], Value::Null);
}

#[test]
fn what_teams_take_ends_with_a_total() {
    let one = |team: &str, jobs, bytes| TeamUsage {
        team: team.into(),
        jobs,
        checkpoints: 3 * jobs,
        bytes,
        held_bytes: 2 * bytes,
    };
    let reply = CheckpointUsageReply {
        teams: vec![one("vision", 2, 3 << 30), one("a\x1b[2J", 1, 512)],
        total: Some(one("", 3, (3 << 30) + 512)),
        left_out: 0,
        index: 7,
    };
    let cells = usage_cells(&reply);
    assert_eq!(cells[0], ["vision", "2", "6", "3.0 GiB", "6.0 GiB"]);
    assert_eq!(cells[1], ["a\u{fffd}[2J", "1", "3", "512 B", "1.0 KiB"]);
    assert_eq!(cells[2], ["all", "3", "9", "3.0 GiB", "6.0 GiB"]);
    assert!(cells.iter().all(|row| row.len() == USAGE_HEAD.len()));
    let value = usage_value(&reply);
    assert_eq!(value["teams"][0]["team"], "vision");
    assert_eq!(value["teams"][1]["held_bytes"], 1_024);
    assert_eq!(value["total"]["jobs"], 3);
    let nothing = CheckpointUsageReply::default();
    assert_eq!(usage_cells(&nothing)[0][0], "all");
}
