//! Tests of the writer's word.
use std::time::Duration;

use super::*;
use crate::args::Format;

fn args(dir: &Path, step: Option<u64>, metrics: &[&str]) -> CommitArgs {
    CommitArgs {
        dir: dir.to_owned(),
        step,
        metrics: metrics.iter().map(|&text| text.to_owned()).collect(),
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("it is there");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_what_the_agent_reads() {
    let dir = Path::new("step-500");
    assert_eq!(word(&args(dir, None, &[])).expect("good"), "");
    let word = word(&args(dir, Some(500), &["val_loss=-1.25e-7", "acc/top1=99"])).expect("good");
    #[cfg(target_os = "linux")]
    {
        use mlctl_agent::checkpoints::seal::notify::parse_complete;
        assert!(parse_complete(b"").is_ok());
        let read = parse_complete(word.as_bytes()).expect("the agent reads it");
        assert_eq!(read.step, Some(500));
        let values = read
            .metrics
            .iter()
            .map(|one| (one.name.as_str(), one.value.parse::<f64>()));
        let values: Vec<_> = values.collect();
        assert_eq!(values, [("acc/top1", Ok(99.0)), ("val_loss", Ok(-1.25e-7))]);
    }
    let extremes = ["min=2.2250738585072014e-308", "max=-1.7976931348623157e308"];
    let word = super::word(&args(dir, Some(u64::MAX), &extremes)).expect("good");
    #[cfg(target_os = "linux")]
    assert!(
        mlctl_agent::checkpoints::seal::notify::parse_complete(word.as_bytes()).is_ok(),
        "{word}"
    );
}

#[test]
fn metrics_that_are_none() {
    let many: Vec<String> = (0..=METRICS_MAX).map(|at| format!("m{at}=1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = format!("{}=1", "n".repeat(65));
    for (metrics, words) in [
        (&["loss"][..], "KEY=VALUE"),
        (&["=1"], "a name has"),
        (&["l\x1boss=1"], "a name has"),
        (&[long.as_str()], "a name has"),
        (&["loss="], "no decimal number"),
        (&["loss=much"], "no decimal number"),
        (&["loss=nan"], "not finite"),
        (&["loss=-inf"], "not finite"),
        (&["loss=1e999"], "not finite"),
        (&["loss=1", "loss=2"], "given twice"),
        (many.as_slice(), "at most 32"),
    ] {
        let failure = word(&args(Path::new("x"), None, metrics)).expect_err(words);
        assert!(failure.to_string().contains(words), "{failure}");
        assert!(!failure.to_string().contains('\x1b'), "{failure:?}");
        assert_eq!(failure.exit(), 64);
    }
}

#[test]
fn the_word_is_there_whole_and_nothing_else_is() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("step-5");
    fs::create_dir(&dir).expect("new");
    fs::write(dir.join("model"), b"weights").expect("written");
    let output = crate::output::of(Format::Json);
    run(&args(&dir, Some(5), &["loss=0.5"]), output.as_ref()).expect("committed");
    assert_eq!(names(&dir), [COMPLETE, "model"]);
    let text = fs::read(dir.join(COMPLETE)).expect("there");
    let json: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(json, json!({ "step": 5, "metrics": { "loss": 0.5 } }));

    let failure = run(&args(&dir, Some(6), &[]), output.as_ref()).expect_err("said already");
    assert_eq!(failure.code(), Some(Code::Conflict));
    assert!(
        failure.to_string().contains("complete already"),
        "{failure}"
    );
    assert_eq!(fs::read(dir.join(COMPLETE)).expect("there"), text);

    // What is written to again may be committed again.
    let later = SystemTime::now() + Duration::from_secs(60);
    fs::create_dir(dir.join("shards")).expect("new");
    let file = File::create(dir.join("shards/0")).expect("new");
    file.set_modified(later).expect("set");
    run(&args(&dir, None, &[]), output.as_ref()).expect("committed");
    assert!(fs::read(dir.join(COMPLETE)).expect("there").is_empty());
    assert_eq!(names(&dir), [COMPLETE, "model", "shards"]);
}

#[test]
fn only_directories_that_the_agent_looks_at() {
    let root = tempfile::tempdir().expect("a directory");
    let (all, other) = (root.path().join("checkpoints"), root.path().join("other"));
    for dir in [&all, &other, &all.join("step-1"), &all.join("step-1/inner")] {
        fs::create_dir(dir).expect("new");
    }
    fs::write(all.join("last.ckpt"), b"x").expect("written");
    std::os::unix::fs::symlink(&other, all.join("linked")).expect("linked");
    let good = checked(&all.join("step-1"), Some(&all)).expect("good");
    assert_eq!(good, all.join("step-1").canonicalize().expect("there"));
    assert!(checked(&all.join("../checkpoints/step-1/"), Some(&all)).is_ok());
    assert!(checked(&other, None).is_ok(), "outside of jobs");
    for (dir, exit, words) in [
        (all.join("step-2"), 66, "write the checkpoint first"),
        (all.join("last.ckpt"), 64, "is not a directory"),
        (all.clone(), 64, "name one in it"),
        (all.join("step-1/inner"), 64, "lies inside a checkpoint"),
        (other.clone(), 64, "is not in"),
        (all.join("linked"), 64, "is not in"),
    ] {
        let failure = checked(&dir, Some(&all)).expect_err(words);
        assert!(failure.to_string().contains(words), "{failure}");
        assert_eq!(failure.exit(), exit, "{failure}");
    }
    let failure = checked(&other, Some(&root.path().join("gone"))).expect_err("no root");
    assert_eq!(failure.exit(), 78);
}
