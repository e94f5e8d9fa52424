//! The worked examples of docs/ on real clusters: every command of them is run, and what they say is printed has to be printed. Does NOT run blocks that do not
//! say `worked`, and what follows one up to the next heading goes on with its cluster.
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use mlctl_tests::process::Cluster;

/// A question is asked again for so long.
const PATIENCE: Duration = Duration::from_secs(40);
/// Whoever the examples are about.
const WHO: &str = "ann";

/// One example: a cluster, and what is typed.
struct Example {
    nodes: u32,
    gpus: u32,
    steps: Vec<Step>,
}

/// One command with what it prints.
struct Step {
    words: Vec<String>,
    lines: Vec<String>,
}

fn number(info: &str, key: &str) -> u32 {
    let found = info
        .split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let found = found.unwrap_or_else(|| panic!("`{info}` does not say {key}="));
    found
        .parse()
        .unwrap_or_else(|error| panic!("{found}: {error}"))
}

/// The examples of one page.
fn examples(page: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let (mut inside, mut goes_on) = (false, false);
    for line in page.lines() {
        if let Some(info) = line.strip_prefix("```") {
            inside = !inside && info.starts_with("console") && (goes_on || info.contains("worked"));
            if info.contains("worked") {
                let (nodes, gpus) = (number(info, "nodes"), number(info, "gpus"));
                found.push(Example {
                    nodes,
                    gpus,
                    steps: Vec::new(),
                });
                goes_on = true;
            }
        } else if line.starts_with('#') {
            goes_on = false;
        } else if let Some(example) = found.last_mut().filter(|_| inside) {
            match line.strip_prefix("$ mlctl ") {
                Some(words) => example.steps.push(Step {
                    words: words.split_whitespace().map(str::to_owned).collect(),
                    lines: Vec::new(),
                }),
                None => {
                    let step = example.steps.last_mut().expect("a command comes first");
                    step.lines.push(line.to_owned());
                }
            }
        }
    }
    found
}

fn plain(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a printed line is one of the page: `…` stands for anything.
fn is_like(printed: &str, wanted: &str) -> bool {
    let mut parts = wanted.split('…').map(str::trim);
    let mut rest = printed;
    if let Some(after) = parts.next().and_then(|first| rest.strip_prefix(first)) {
        rest = after;
    } else {
        return false;
    }
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    wanted.ends_with('…') || rest.is_empty()
}

/// Whether all lines were printed, in this order.
fn says(printed: &str, wanted: &[String]) -> bool {
    let mut printed = printed.lines().map(plain);
    let mut wanted = wanted.iter().map(|line| plain(line));
    wanted.all(|wanted| printed.any(|line| is_like(&line, &wanted)))
}

/// Whose the cluster's jobs are.
fn submitter(cluster: &Cluster) -> String {
    let jobs = cluster.json(&["jobs", "-a"]);
    let owner = jobs["jobs"][0]["owner"].as_str();
    owner.unwrap_or_else(|| panic!("no job: {jobs}")).to_owned()
}

fn run(cluster: &Cluster, step: &Step) {
    let who = step
        .words
        .iter()
        .any(|word| word == WHO)
        .then(|| submitter(cluster));
    let name = |word| match (&who, word) {
        (Some(who), WHO) => who.as_str(),
        _ => word,
    };
    let words: Vec<&str> = step.words.iter().map(|word| name(word)).collect();
    let changes = !matches!(words[0], "why" | "jobs" | "show") && !words.contains(&"show");
    let end = Instant::now() + PATIENCE;
    loop {
        let output = cluster.mlctl(&words).expect(0);
        let printed = format!("{}\n{}", output.stdout, output.stderr);
        if says(&printed, &step.lines) {
            return;
        }
        let last = changes || Instant::now() > end;
        assert!(
            !last,
            "$ mlctl {}\nis to print\n{}\nand prints\n{printed}",
            words.join(" "),
            step.lines.join("\n")
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn play(example: &Example) {
    let cluster = Cluster::start(example.nodes, example.gpus);
    for step in &example.steps {
        run(&cluster, step);
    }
}

#[test]
fn the_worked_examples_of_the_docs_are_true() {
    let mut pages = String::new();
    let mut played = 0;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs"))
        .expect("docs/ is there")
    {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a page");
        let examples = examples(&text);
        if !examples.is_empty() {
            let _ = write!(pages, " {}", path.display());
        }
        played += examples.len();
        examples.iter().for_each(play);
    }
    assert!(played >= 2, "examples in{pages}");
}
