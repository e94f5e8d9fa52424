//! `mlctl logs`: the output of a job's ranks, live or after the end; all of it, or what was asked for.
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Instant;

use mlctl_proto::api::{LogLine, LogsRequest};
use mlctl_proto::limits::DUMP_NAME;
use regex::bytes::Regex;

use super::follow::{self, Printer, Sink};
use crate::args::{Global, LogsArgs};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;

/// Prints what `args` select. Ctrl-C just ends it.
pub async fn run(args: &LogsArgs, global: &Global, output: &dyn Output) -> Result<u8, Failure> {
    let mut selection = Selection::of(args)?;
    let mut client = Client::open(global)?;
    let (job, task) = task_of(&args.job);
    let request = LogsRequest {
        job,
        follow: args.follow,
        attempt: args.attempt.unwrap_or(0),
        rank: args.rank.or(task),
        all_attempts: args.all_attempts,
        many: true,
        dumps: args.dumps.is_some(),
    };
    if let Some(folder) = &args.dumps {
        return dumps(&mut client, request, folder, output).await;
    }
    let fold = args.fold.asked();
    let mut printer = Printer::new(output, fold, args.raw);
    let mut selecting = Selecting {
        selection: &mut selection,
        printer: &mut printer,
    };
    follow::lines(&mut client, request, &mut selecting).await?;
    for line in &selection.kept {
        printer.line(line);
    }
    printer.finish();
    Ok(0)
}

/// Writes what ranks dumped into `folder`, a file each, and lists the files.
async fn dumps(
    client: &mut Client,
    request: LogsRequest,
    folder: &Path,
    output: &dyn Output,
) -> Result<u8, Failure> {
    let job = request.job.clone();
    let mut found: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut notes = Vec::new();
    let mut keep = |line: &LogLine| match line.note.as_str() {
        "" => found.entry(line.rank).or_default().extend(&line.text),
        note => notes.push(note.to_owned()),
    };
    follow::lines(client, request, &mut keep).await?;
    for note in notes {
        output.note(&format!("--- {note}"));
    }
    if found.is_empty() {
        output.note(&format!("no rank of job {job} left a dump"));
        return Ok(0);
    }
    let failed = |path: &Path, error: std::io::Error| {
        Failure::usage(format!("cannot write {}: {error}", path.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    for (rank, bytes) in found {
        let path = folder.join(format!("{DUMP_NAME}{rank}"));
        std::fs::write(&path, bytes).map_err(|error| failed(&path, error))?;
        output.line(&path.display().to_string());
    }
    Ok(0)
}

/// `412.7`: task 7 of job 412. What is no task is the server's to refuse.
fn task_of(text: &str) -> (String, Option<u32>) {
    let parts = text.split_once('.');
    let task = parts.and_then(|(job, index)| Some((job.to_owned(), index.parse().ok()?)));
    task.map_or((text.to_owned(), None), |(job, index)| (job, Some(index)))
}

/// Prints what is selected.
struct Selecting<'a, 'b> {
    selection: &'a mut Selection,
    printer: &'a mut Printer<'b>,
}

impl Sink for Selecting<'_, '_> {
    fn line(&mut self, line: &LogLine) {
        if let Some(line) = self.selection.take(line) {
            self.printer.line(line);
        }
    }

    fn due(&self) -> Option<Instant> {
        self.printer.due()
    }

    fn tick(&mut self) {
        self.printer.tick();
    }
}

/// Which lines are printed.
struct Selection {
    grep: Option<Regex>,
    tail: Option<usize>,
    /// The last ones, printed at the end.
    kept: VecDeque<LogLine>,
}

impl Selection {
    fn of(args: &LogsArgs) -> Result<Self, Failure> {
        let pattern = args.grep.as_deref().map(Regex::new).transpose();
        Ok(Self {
            grep: pattern.map_err(|error| Failure::usage(format!("--grep: {error}")))?,
            tail: args.tail,
            kept: VecDeque::new(),
        })
    }

    /// The line, if it is to be printed now. Remarks between lines say what is missing: they are never left out of a whole log.
    fn take<'a>(&mut self, line: &'a LogLine) -> Option<&'a LogLine> {
        let wanted = match &self.grep {
            Some(grep) => line.note.is_empty() && grep.is_match(&line.text),
            None => true,
        };
        let Some(most) = self.tail else {
            return wanted.then_some(line);
        };
        if wanted && line.note.is_empty() {
            self.kept.push_back(line.clone());
            if self.kept.len() > most {
                self.kept.pop_front();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(grep: Option<&str>, tail: Option<usize>, lines: &[&str]) -> Vec<String> {
        let args = LogsArgs {
            job: "1".into(),
            follow: false,
            rank: None,
            attempt: None,
            all_attempts: false,
            tail,
            grep: grep.map(str::to_owned),
            dumps: None,
            raw: false,
            fold: Default::default(),
        };
        let Ok(mut selection) = Selection::of(&args) else {
            return vec!["a bad pattern".into()];
        };
        let line = |text: &&str| LogLine {
            // A remark stands in brackets.
            note: text.strip_prefix('(').unwrap_or_default().into(),
            text: text.as_bytes().to_vec(),
            ..LogLine::default()
        };
        let lines: Vec<LogLine> = lines.iter().map(line).collect();
        let now = lines
            .iter()
            .filter_map(|line| selection.take(line).cloned());
        let now: Vec<LogLine> = now.collect();
        let text = |line: &LogLine| String::from_utf8_lossy(&line.text).into_owned();
        now.iter().chain(&selection.kept).map(text).collect()
    }

    #[test]
    fn a_task_is_named_by_job_and_index() {
        assert_eq!(task_of("412.7"), ("412".into(), Some(7)));
        assert_eq!(task_of("2-412"), ("2-412".into(), None));
        assert_eq!(task_of("4.x"), ("4.x".into(), None));
    }

    #[test]
    fn lines_are_picked_by_pattern_and_from_the_end() {
        let lines = ["(gap", "step 1 loss 3", "warning", "step 2 loss 2"];
        assert_eq!(selected(None, None, &lines), lines);
        assert_eq!(selected(None, Some(2), &lines), &lines[2..]);
        assert_eq!(selected(None, Some(9), &lines), &lines[1..]);
        assert!(selected(None, Some(0), &lines).is_empty());
        assert_eq!(
            selected(Some("step [0-9]"), None, &lines),
            [lines[1], lines[3]]
        );
        assert_eq!(selected(Some("^step"), Some(1), &lines), [lines[3]]);
        assert_eq!(selected(Some("("), None, &lines), ["a bad pattern"]);
    }
}
