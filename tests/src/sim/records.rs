//! The byte image of the end of a simulated log, in the format that the product's scanner walks: made when a crash tore a record or
//! a bit rotted, and judged by the scanner itself. Does NOT exist while all is well: an intact log is kept as entries.

use mlctl_coordinator::consensus::log::scanner;

/// An entry: its index and its bytes.
pub(super) type Entry = (u64, Vec<u8>);

/// The file's number, which its checksums are mixed with.
const NUMBER: u64 = 7;
const RECORD_HEADER: usize = 16;
/// The items of a record: none. What they say is not what a crash or rot is about.
const ITEMS: [u8; 1] = [0];

/// What is wrong with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Wrong {
    /// Behind the last record lies the beginning of one more: so many thousandths of it.
    pub(super) torn: Option<u64>,
    /// A bit of the record of this entry is another: which one, counted around.
    pub(super) flipped: Option<(u64, u64)>,
}

/// What the scanner says of the bytes: how many of them are cut off.
///
/// # Errors
/// When it refuses them, with why. `Ok` with another number of sound records than entries is an error too.
pub(super) fn judge(entries: &[Entry], wrong: Wrong) -> Result<u64, String> {
    let mut image = scanner::file_header();
    for entry in entries {
        let mut record = record(entry);
        if let Some((_, bit)) = wrong.flipped.filter(|(index, _)| *index == entry.0) {
            let bit = bit as usize % (record.len() * 8);
            record[bit / 8] ^= 1 << (bit % 8);
        }
        image.extend(record);
    }
    if let (Some(thousandths), Some(last)) = (wrong.torn, entries.last()) {
        let record = record(last);
        let kept = (record.len() * thousandths as usize / 1_000).clamp(1, record.len() - 1);
        image.extend(&record[..kept]);
    }
    let judged = scanner::judge(&image, NUMBER, true)?;
    if judged.records == entries.len() {
        return Ok(judged.torn_bytes);
    }
    let (sound, all) = (judged.records, entries.len());
    Err(format!("{sound} of {all} synced records are taken for all"))
}

fn record((index, data): &Entry) -> Vec<u8> {
    let mut body = index.to_le_bytes().to_vec();
    body.extend(data);
    let footer = RECORD_HEADER + body.len() + 4;
    let length = footer + ITEMS.len() + 4;
    let mut record = ((length as u64) << 8).to_be_bytes().to_vec();
    record.extend((footer as u64).to_be_bytes());
    record.extend(&body);
    record.extend(crc32fast::hash(&body).to_le_bytes());
    record.extend(ITEMS);
    record.extend((crc32fast::hash(&ITEMS) ^ NUMBER as u32).to_le_bytes());
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        (1..=4)
            .map(|index| (index, vec![index as u8; 40]))
            .collect()
    }

    #[test]
    fn a_torn_tail_is_cut_and_what_was_synced_stays() {
        assert_eq!(judge(&entries(), Wrong::default()), Ok(0));
        // A record begins with zeros: of less than this the scanner sees nothing but what was allocated ahead.
        for torn in [150, 300, 999] {
            let wrong = Wrong {
                torn: Some(torn),
                ..Wrong::default()
            };
            assert!(judge(&entries(), wrong).is_ok_and(|cut| cut > 0), "{torn}");
        }
    }

    #[test]
    fn a_bit_of_any_but_the_last_record_is_damage() {
        for index in 1..=3 {
            for bit in 0..100 * 8 {
                let wrong = Wrong {
                    flipped: Some((index, bit)),
                    ..Wrong::default()
                };
                assert!(judge(&entries(), wrong).is_err(), "entry {index} bit {bit}");
            }
        }
    }
}
