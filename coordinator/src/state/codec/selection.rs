//! Which jobs a person means, and what shall become of them, as bytes.
use mlctl_proto::persist;

use super::command::decode_ids;
use super::turn::{class_number, class_of};
use super::words::Word;
use super::{CodecError, missing};
use crate::state::commands::{Filter, HoldJobs, ReleaseJobs, Selection, UpdateJobs};
use crate::state::records::JobState;

pub(super) fn encode_hold(hold: &HoldJobs) -> persist::HoldJobs {
    persist::HoldJobs {
        which: Some(encode_selection(&hold.which)),
        why: hold.why.clone(),
    }
}

pub(super) fn decode_hold(hold: persist::HoldJobs) -> Result<HoldJobs, CodecError> {
    Ok(HoldJobs {
        which: decode_selection(hold.which)?,
        why: hold.why,
    })
}

pub(super) fn encode_release(release: &ReleaseJobs) -> persist::ReleaseJobs {
    persist::ReleaseJobs {
        which: Some(encode_selection(&release.which)),
    }
}

pub(super) fn decode_release(release: persist::ReleaseJobs) -> Result<ReleaseJobs, CodecError> {
    Ok(ReleaseJobs {
        which: decode_selection(release.which)?,
    })
}

pub(super) fn encode_update(update: &UpdateJobs) -> persist::UpdateJobs {
    persist::UpdateJobs {
        which: Some(encode_selection(&update.which)),
        edit: update.edit.clone(),
    }
}

pub(super) fn decode_update(update: persist::UpdateJobs) -> Result<UpdateJobs, CodecError> {
    Ok(UpdateJobs {
        which: decode_selection(update.which)?,
        edit: update.edit,
    })
}

fn encode_selection(which: &Selection) -> persist::JobSelection {
    persist::JobSelection {
        jobs: which.jobs.iter().map(|job| (*job).into()).collect(),
        filter: which.filter.as_ref().map(encode_filter),
    }
}

fn decode_selection(which: Option<persist::JobSelection>) -> Result<Selection, CodecError> {
    let which = which.ok_or_else(|| missing("a command", "jobs"))?;
    Ok(Selection {
        jobs: decode_ids(which.jobs)?,
        filter: which.filter.map(decode_filter).transpose()?,
    })
}

pub(super) fn encode_filter(filter: &Filter) -> persist::JobFilter {
    persist::JobFilter {
        user: filter.user.clone(),
        team: filter.team.clone(),
        name: filter.name.clone(),
        state: filter.state.map_or(0, JobState::number),
        class: filter.class.map(|class| class_number(class).into()),
    }
}

pub(super) fn decode_filter(filter: persist::JobFilter) -> Result<Filter, CodecError> {
    Ok(Filter {
        user: filter.user,
        team: filter.team,
        name: filter.name,
        state: match filter.state {
            0 => None,
            number => Some(JobState::from_number(number)?),
        },
        class: filter.class.map(class_of).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use mlctl_proto::ids::JobId;
    use mlctl_proto::spec::Class;

    use super::*;

    #[test]
    fn selections_come_back() {
        let filter = Filter {
            user: "me".into(),
            team: "acme/vision".into(),
            name: "sweep-*".into(),
            state: Some(JobState::Held),
            class: Some(Class::Normal),
        };
        for which in [
            Selection::of(vec![JobId::new(1, 1), JobId::new(2, 5)]),
            Selection {
                jobs: Vec::new(),
                filter: Some(filter),
            },
            Selection {
                jobs: Vec::new(),
                filter: Some(Filter::default()),
            },
        ] {
            assert_eq!(decode_selection(Some(encode_selection(&which))), Ok(which));
        }
        assert!(decode_selection(None).is_err());
    }
}
