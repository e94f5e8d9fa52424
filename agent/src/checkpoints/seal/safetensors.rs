//! Models in the safetensors format: each file says how long it is, and an index names all files of a model.
//! Does NOT know what a trainer saves beside the model, so it waits until nobody writes any more.

use serde_json::Value;

use super::listing::{Content, Entry, Listing, WHOLE_BYTES_MAX};
use super::{Facts, Proof, Ruling, Why, settled};

/// How names of its files end.
pub(super) const ENDING: &str = ".safetensors";
const INDEX: &str = ".safetensors.index.json";
/// Bytes that say how long the header is.
const LENGTH_BYTES: u64 = 8;

/// The rule.
pub(super) fn judge(listing: &Listing, facts: &Facts) -> Option<Ruling> {
    let models = |entry: &Entry| entry.path.ends_with(ENDING) || entry.path.ends_with(INDEX);
    let described = listing
        .top()
        .any(|entry| entry.path == "config.json" || entry.path == "adapter_config.json");
    if !described && !listing.files().any(models) {
        return None;
    }
    Some(check(listing).and_then(|()| {
        let data = |entry: &Entry| !entry.path.ends_with(".json") && !entry.path.ends_with(".txt");
        if !listing.files().any(data) {
            return Err(Why::Missing("the model's weights".into()));
        }
        settled(facts)?;
        Ok(Proof::default())
    }))
}

/// Every file whole, every part of every model there.
pub(super) fn check(listing: &Listing) -> Result<(), Why> {
    // The library writes under such a name and renames.
    let temporary = listing
        .files()
        .find(|entry| entry.name().starts_with(".tmp"));
    if let Some(entry) = temporary {
        return Err(Why::Temporary(entry.path.clone()));
    }
    for entry in listing.files().filter(|entry| entry.path.ends_with(ENDING)) {
        if whole(entry) == Some(false) {
            return Err(Why::Torn(entry.path.clone()));
        }
        siblings(listing, entry)?;
    }
    for index in listing
        .files()
        .filter(|entry| entry.path.ends_with(".index.json"))
    {
        let Content::Whole(text) = &index.content else {
            continue;
        };
        for file in files_of(text).ok_or_else(|| Why::Torn(index.path.clone()))? {
            let path = beside(index, &file);
            if listing.file(&path).is_none() {
                return Err(Why::Missing(path));
            }
        }
    }
    Ok(())
}

/// A part of several, `model-00001-of-00003.safetensors`: the others and the index are there.
fn siblings(listing: &Listing, entry: &Entry) -> Result<(), Why> {
    let stem = entry.name().strip_suffix(ENDING).unwrap_or_default();
    let Some((rest, total)) = stem.rsplit_once("-of-") else {
        return Ok(());
    };
    let Some((model, _)) = rest.rsplit_once('-') else {
        return Ok(());
    };
    let (digits, Ok(count)) = (total.len(), total.parse::<u32>()) else {
        return Ok(());
    };
    let index = beside(entry, &format!("{model}{INDEX}"));
    if listing.file(&index).is_none() {
        return Err(Why::Missing(index));
    }
    // No more than there are files: the number is somebody's word.
    let most = u32::try_from(listing.entries.len()).unwrap_or(u32::MAX);
    let missing = (1..=count.min(most.saturating_add(1)))
        .map(|part| {
            beside(
                entry,
                &format!("{model}-{part:0digits$}-of-{total}{ENDING}"),
            )
        })
        .find(|path| listing.file(path).is_none());
    missing.map_or(Ok(()), |path| Err(Why::Missing(path)))
}

fn beside(entry: &Entry, name: &str) -> String {
    match entry.folder() {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// The files that an index names.
fn files_of(index: &[u8]) -> Option<Vec<String>> {
    let value: Value = serde_json::from_slice(index).ok()?;
    let map = value.get("weight_map")?.as_object()?;
    let mut files: Vec<String> = map
        .values()
        .map(|file| file.as_str().map(str::to_owned))
        .collect::<Option<_>>()?;
    files.sort_unstable();
    files.dedup();
    Some(files)
}

/// How long the header is, after its first eight bytes; `None`: longer than anybody reads.
pub fn header_bytes(first: [u8; 8]) -> Option<u64> {
    let bytes = u64::from_le_bytes(first);
    (bytes <= WHOLE_BYTES_MAX).then_some(bytes)
}

/// Is the file as long as its header says? `None`: the header was not read.
pub(super) fn whole(entry: &Entry) -> Option<bool> {
    if entry.size <= LENGTH_BYTES {
        return Some(false);
    }
    let Content::Head(head) = &entry.content else {
        return None;
    };
    let first = *head.first_chunk::<8>()?;
    let length = header_bytes(first)?;
    let header = &head[LENGTH_BYTES as usize..];
    if header.len() as u64 != length {
        return Some(false);
    }
    let data = data_bytes(header);
    Some(data.and_then(|data| data.checked_add(LENGTH_BYTES + length)) == Some(entry.size))
}

/// Where the last tensor ends.
fn data_bytes(header: &[u8]) -> Option<u64> {
    let value: Value = serde_json::from_slice(header).ok()?;
    let mut end = 0;
    for (name, tensor) in value.as_object()? {
        if name != "__metadata__" {
            end = end.max(tensor.get("data_offsets")?.get(1)?.as_u64()?);
        }
    }
    Some(end)
}
