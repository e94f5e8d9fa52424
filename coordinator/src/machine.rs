//! The replicated state as the state machine that consensus drives: decode, apply, publish.
//!
//! Owned by the apply thread. It decides nothing by itself, does no I/O and never waits (but for a disk that is far behind with
//! segments): index and segments are written by their own threads, effects are carried out by the leader's loop.
use std::sync::Arc;

use bytes::Bytes;
use mlctl_proto::errors::{Code, Refusal};

use crate::consensus::{Apply, Unsaved};
use crate::published::{Group, Published};
use crate::state::records::Reply;
use crate::state::{Row, State, codec};
use crate::store::Feed;
use crate::store::segments::Segments;
use crate::vitals::marks::{Mark, Marks};

/// Called with the reason when a committed command cannot be read.
pub type OnFatal = Arc<dyn Fn(String) + Send + Sync>;

/// The state and those to whom it is shown.
pub struct Machine {
    state: State,
    published: Arc<Published>,
    feed: Feed,
    segments: Arc<Segments>,
    on_fatal: OnFatal,
    group: Group,
    rows: Vec<Row>,
}

impl Machine {
    /// A machine that holds `state` already, and shows what follows to `published` and to the index's `feed`;
    /// `segments` gets the history that is closed on the way.
    pub fn new(
        state: State,
        published: Arc<Published>,
        feed: Feed,
        segments: Arc<Segments>,
        on_fatal: OnFatal,
    ) -> Self {
        Self {
            state,
            published,
            feed,
            segments,
            on_fatal,
            group: Group::default(),
            rows: Vec::new(),
        }
    }

    fn apply_one(&mut self, index: u64, bytes: &Bytes) -> Reply {
        let command = match codec::decode_command(bytes) {
            Ok(command) => command,
            Err(error) => {
                let reason = format!(
                    "the committed command at index {index} cannot be read: {error}; \
                     start the release that wrote it, nothing was skipped"
                );
                (self.on_fatal)(reason.clone());
                return Reply::Rejected(Refusal::new(Code::Internal, reason));
            }
        };
        let applied = self.state.apply(index, &command);
        let changes = applied.changed.into_iter().map(|changed| (index, changed));
        self.group.changes.extend(changes);
        self.group.effects.extend(applied.effects);
        self.rows.extend(applied.rows);
        for closed in applied.closed {
            if let Err(error) = self.segments.keep(closed) {
                (self.on_fatal)(error.to_string());
            }
        }
        applied.reply
    }
}

impl Apply for Machine {
    type Reply = Reply;

    fn apply(&mut self, index: u64, commands: &[Bytes]) -> Vec<Reply> {
        if commands.is_empty() {
            self.state.skip(index);
        }
        let replies = commands.iter().map(|bytes| self.apply_one(index, bytes));
        let replies = replies.collect();
        if Marks::wanted(index) {
            let digest = self.state.digest().to_bytes();
            self.group.marks.push(Mark { index, digest });
        }
        replies
    }

    fn published(&mut self, applied: u64, leader_term: Option<u64>) {
        let group = std::mem::take(&mut self.group);
        self.published
            .publish(&self.state, applied, group, leader_term);
        let rows = std::mem::take(&mut self.rows);
        self.feed.rows(applied, self.state.digest(), rows);
    }

    fn snapshot(&self) -> Box<dyn FnOnce() -> Result<Vec<u8>, Unsaved> + Send> {
        let state = self.state.clone();
        let segments = Arc::clone(&self.segments);
        Box::new(move || {
            // With this snapshot the log is cut, and what closed the segments that it lists is not repeated.
            segments.write_waiting().map_err(|error| Unsaved {
                full: error.is_full(),
                reason: error.to_string(),
            })?;
            Ok(codec::encode_snapshot(&state))
        })
    }

    fn restore(&mut self, index: u64, bytes: &[u8]) -> Result<(), String> {
        let state = codec::decode_snapshot(bytes).map_err(|error| error.to_string())?;
        if state.applied_index() != index {
            let found = state.applied_index();
            return Err(format!(
                "it holds the state of index {found}, not of {index}"
            ));
        }
        self.state = state;
        self.group = Group::default();
        self.rows.clear();
        self.published.replace(&self.state, index);
        self.feed.rebuild();
        self.segments.look_again();
        Ok(())
    }

    fn applied(&self) -> u64 {
        self.state.applied_index()
    }
}
