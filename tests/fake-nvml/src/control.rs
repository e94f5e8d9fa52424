//! The control file of the fake driver. A missing file, or a line that says nothing known, is a machine without devices.
//! Does NOT cache: the file is the state.

use std::collections::BTreeSet;

/// What the file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) gpus: u32,
    pub(crate) lost: BTreeSet<u32>,
    pub(crate) broken: bool,
    /// Device and process.
    pub(crate) processes: BTreeSet<(u32, u32)>,
}

impl Control {
    pub(crate) fn read() -> Self {
        let file = std::env::var_os("FAKE_NVML_STATE");
        let text = file.and_then(|file| std::fs::read_to_string(file).ok());
        Self::parse(&text.unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut control = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let word = words.next();
            let mut number = || words.next().and_then(|number| number.parse().ok());
            match (word, number()) {
                (Some("gpus"), Some(gpus)) => control.gpus = gpus,
                (Some("lost"), Some(index)) => {
                    control.lost.insert(index);
                }
                (Some("proc"), Some(index)) => {
                    let process = number().map(|pid| (index, pid));
                    control.processes.extend(process);
                }
                (Some("broken"), _) => control.broken = true,
                _ => {}
            }
        }
        control
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_it_is_documented() {
        let control = Control::parse("gpus 8\nlost 3\nlost x\nnonsense\nlost 5\nproc 1 77\nproc 1");
        assert_eq!(
            control,
            Control {
                gpus: 8,
                lost: [3, 5].into(),
                broken: false,
                processes: [(1, 77)].into(),
            }
        );
        assert_eq!(
            Control::parse("broken"),
            Control {
                broken: true,
                ..Control::default()
            }
        );
        assert_eq!(Control::parse(""), Control::default());
    }
}
