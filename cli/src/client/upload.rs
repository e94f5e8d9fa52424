//! Code to the cluster: scanned here, only what is missing there is sent. Decides nothing about the job.
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use mlctl_blobs::BlobId;
use mlctl_blobs::code::{Scanned, scan};
use mlctl_proto::api::{MissingRequest, PutBlob};
use mlctl_proto::limits::{BLOB_CHUNK_BYTES, CODE_BYTES_ASK};
use mlctl_proto::units::bytes_text;

use super::{Client, blobs, traced};
use crate::failure::Failure;

/// Ids in one question, far below a message's limit.
const IDS_PER_CALL: usize = 10_000;

/// Blobs on their way at once.
const BLOBS_IN_FLIGHT: usize = 32;

/// Uploads the directory `root` and returns the id of its manifest. Above 200 MB it asks, unless `yes`.
pub async fn upload_code(client: &mut Client, root: &Path, yes: bool) -> Result<String, Failure> {
    let scanned = scan(root).map_err(|error| Failure::usage(chain(&error)))?;
    confirm(&scanned, root, yes)?;
    let manifest = scanned.manifest.encode();
    let manifest_id = BlobId::of(&manifest);
    let mut ids: Vec<String> = scanned.files.iter().map(|(id, _)| id.to_string()).collect();
    ids.push(manifest_id.to_string());
    let missing = missing(client, &ids).await?;
    let files = scanned
        .files
        .into_iter()
        .map(|(id, path)| (id, Source::File(path)));
    let all = files.chain([(manifest_id, Source::Bytes(manifest))]);
    let wanted = all
        .filter(|(id, _)| missing.contains(&id.to_string()))
        .collect();
    put_all(client, wanted).await?;
    Ok(manifest_id.to_string())
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn confirm(scanned: &Scanned, root: &Path, yes: bool) -> Result<(), Failure> {
    let bytes = scanned.manifest.bytes();
    if yes || bytes <= CODE_BYTES_ASK {
        return Ok(());
    }
    let what = format!(
        "{} holds {} in {} files",
        root.display(),
        bytes_text(bytes),
        scanned.manifest.files.len()
    );
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{what}; name what need not travel in .mlctlignore, give --no-code, or --yes to send it all"
        )));
    }
    eprint!("{what}. Upload it all? [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(Failure::internal)?;
    if answer.trim().eq_ignore_ascii_case("y") {
        Ok(())
    } else {
        Err(Failure::usage("nothing was sent".into()))
    }
}

async fn missing(
    client: &mut Client,
    ids: &[String],
) -> Result<std::collections::BTreeSet<String>, Failure> {
    let mut missing = std::collections::BTreeSet::new();
    for ids in ids.chunks(IDS_PER_CALL) {
        let request = MissingRequest { ids: ids.to_vec() };
        let answer = client.call(|channel| {
            let request = traced(request.clone());
            async move { blobs(channel).missing(request).await }
        });
        missing.extend(answer.await?.ids);
    }
    Ok(missing)
}

#[derive(Clone)]
enum Source {
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// Sends several blobs at a time: each waits for disks, not for the network.
async fn put_all(client: &mut Client, wanted: Vec<(BlobId, Source)>) -> Result<(), Failure> {
    let channel = client.channel().await.ok();
    let failed: Vec<(BlobId, Source)> = futures::stream::iter(wanted)
        .map(|(id, source)| {
            let channel = channel.clone();
            async move {
                let sent = match channel {
                    Some(channel) => blobs(channel).put(parts(id, source.clone())).await.is_ok(),
                    None => false,
                };
                (!sent).then_some((id, source))
            }
        })
        .buffer_unordered(BLOBS_IN_FLIGHT)
        .filter_map(std::future::ready)
        .collect()
        .await;
    // What did not get through is tried again by itself, on other coordinators too, and then says what is wrong.
    for (id, source) in failed {
        put(client, id, source).await?;
    }
    Ok(())
}

async fn put(client: &mut Client, id: BlobId, source: Source) -> Result<(), Failure> {
    let answer = client.call(|channel| {
        let parts = parts(id, source.clone());
        async move { blobs(channel).put(parts).await }
    });
    answer.await.map(drop)
}

/// The messages of one blob: its name first, then its bytes. A file that cannot be read ends the stream early,
/// and the coordinator refuses what does not hash to the name.
fn parts(id: BlobId, source: Source) -> impl futures::Stream<Item = PutBlob> + Send + 'static {
    let head = futures::stream::iter([PutBlob {
        id: id.to_string(),
        data: Vec::new(),
    }]);
    let reader: Box<dyn Read + Send> = match source {
        Source::Bytes(bytes) => Box::new(std::io::Cursor::new(bytes)),
        Source::File(path) => match std::fs::File::open(path) {
            Ok(file) => Box::new(file),
            Err(_) => Box::new(std::io::empty()),
        },
    };
    let body = futures::stream::unfold(reader, |mut reader| async move {
        let mut data = vec![0; BLOB_CHUNK_BYTES];
        let read = reader.read(&mut data).unwrap_or(0);
        data.truncate(read);
        (read > 0).then(|| {
            (
                PutBlob {
                    id: String::new(),
                    data,
                },
                reader,
            )
        })
    });
    head.chain(body)
}
