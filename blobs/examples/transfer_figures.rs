//! Prints what it costs on this machine to bring a checkpoint from one process to another: `cargo run --release -p mlctl-blobs --example
//! transfer_figures -- DIR [ROUNDS]`, where DIR is a new directory on the disk in question. `cp -a` of the same files stands beside it.
//! Does NOT compare with other tools, and judges nothing.

#[cfg(target_os = "linux")]
#[path = "../tests/common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["receive", dir, way, lanes] => figures::receive(dir.as_ref(), way, lanes.parse()?),
        ["send", dir, way, lanes] => figures::send(dir.as_ref(), way, lanes.parse()?),
        [dir] => figures::all(dir.as_ref(), 1),
        [dir, rounds] => figures::all(dir.as_ref(), rounds.parse()?),
        _ => Err("name a new directory".into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("checkpoints are kept on Linux only");
}

#[cfg(target_os = "linux")]
mod figures {
    use std::error::Error;
    use std::fs;
    use std::io::Read;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::Arc;
    use std::time::Instant;

    use super::common::net::{Open, here, make_pki, peer, tls};
    use super::common::{noise, open, write};
    use mlctl_blobs::checkpoint::CheckpointStore;
    use mlctl_blobs::transfer::{Node, Options, Pacer, Push, Rate, quiet_runtime};

    type Done = Result<(), Box<dyn Error>>;

    pub fn all(dir: &Path, rounds: u32) -> Done {
        fs::create_dir(dir)?;
        make_pki(&dir.join("pki"), &["a", "b"]);
        let source = dir.join("source");
        for number in 0..64 {
            write(
                &source,
                &format!("shard-{number}"),
                &noise(number, 32 << 20),
            );
        }
        for number in 0..500 {
            let bytes = noise(1_000 + number, number as usize * 40);
            write(&source, &format!("small-{number}"), &bytes);
        }
        let id = open(&dir.join("a")).seal(&source)?.id;
        fs::write(dir.join("id"), id.to_string())?;
        println!("64 x 32 MiB and 500 small files, 2 GiB");
        for _ in 0..rounds {
            copy(&source, &dir.join("copy"))?;
            for (way, lanes) in [
                ("quic", 1),
                ("quic", 4),
                ("quic-8900", 4),
                ("tcp", 1),
                ("tcp", 4),
            ] {
                once(dir, way, lanes)?;
                fs::remove_dir_all(dir.join("b"))?;
            }
        }
        // Six of the large files and fifty of the small ones are others now; the receiver holds what was before.
        once(dir, "quic", 4)?;
        fs::write(dir.join("near"), id.to_string())?;
        for number in 0..6 {
            fs::remove_file(source.join(format!("shard-{number}")))?;
            write(
                &source,
                &format!("shard-{number}"),
                &noise(90 + number, 32 << 20),
            );
        }
        for number in 100..150 {
            write(
                &source,
                &format!("small-{number}"),
                &noise(5_000 + number, number as usize * 40),
            );
        }
        let id = open(&dir.join("a")).seal(&source)?.id;
        fs::write(dir.join("id"), id.to_string())?;
        println!("a tenth of the files changed");
        once(dir, "quic", 4)?;
        Ok(fs::remove_dir_all(dir)?)
    }

    fn copy(source: &Path, dest: &Path) -> Done {
        let (begun, before) = (Instant::now(), processor_seconds(13));
        let status = Command::new("cp").arg("-a").args([source, dest]).status()?;
        let (wall, processor) = (
            begun.elapsed().as_secs_f64(),
            processor_seconds(13) - before,
        );
        println!("cp -a, not synced: {wall:.2} s, {processor:.2} s of processors, {status}");
        Ok(fs::remove_dir_all(dest)?)
    }

    fn once(dir: &Path, way: &str, lanes: u8) -> Done {
        let program = std::env::current_exe()?;
        let start = |end: &str| {
            let mut command = Command::new(&program);
            command.arg(end).arg(dir).args([way, &lanes.to_string()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            command.spawn()
        };
        let mut receiver = start("receive")?;
        while !dir.join("address").exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let sender = start("send")?.wait_with_output()?;
        drop(receiver.stdin.take());
        let received = receiver.wait_with_output()?;
        fs::remove_file(dir.join("address"))?;
        println!(
            "{way}, {lanes} lanes: {}",
            String::from_utf8_lossy(&sender.stdout).trim()
        );
        println!(
            "    receiver: {}",
            String::from_utf8_lossy(&received.stdout).trim()
        );
        Ok(())
    }

    fn node(dir: &Path, name: &str, way: &str, lanes: u8) -> (CheckpointStore, Node) {
        let store = open(&dir.join(name));
        let mut options = Options {
            lanes,
            ..Options::default()
        };
        if way == "quic-8900" {
            options.mtu_max = 8_900;
        }
        let identity = tls(&dir.join("pki"), name);
        let pacer = Pacer::new(Rate::Unlimited);
        let node = Node::new(store.clone(), identity, Arc::new(Open), pacer, options);
        (store, node)
    }

    pub fn receive(dir: &Path, way: &str, lanes: u8) -> Done {
        let (_store, node) = node(dir, "b", way, lanes);
        let before = processor_seconds(11);
        let runtime = quiet_runtime(2)?;
        let server = runtime.block_on(node.serve(here(), way != "tcp"))?;
        fs::write(dir.join("address.new"), server.address().to_string())?;
        fs::rename(dir.join("address.new"), dir.join("address"))?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        report(before);
        Ok(())
    }

    pub fn send(dir: &Path, way: &str, lanes: u8) -> Done {
        let (_store, node) = node(dir, "a", way, lanes);
        let near = fs::read_to_string(dir.join("near")).ok();
        let push = Push {
            id: fs::read_to_string(dir.join("id"))?.parse()?,
            near: near.map(|id| id.parse()).transpose()?.into_iter().collect(),
            urgent: false,
            pacer: None,
        };
        let to = peer("b", fs::read_to_string(dir.join("address"))?.parse()?);
        let before = processor_seconds(11);
        let runtime = quiet_runtime(2)?;
        let pushed = runtime
            .block_on(async { tokio::spawn(async move { node.push(&to, &push).await }).await });
        println!("{:?}", pushed??);
        report(before);
        Ok(())
    }

    fn report(before: f64) {
        let (processor, peak) = (processor_seconds(11) - before, peak_kib());
        println!("    {processor:.2} s of processors, {peak} KiB at most");
    }

    /// User and system time, in ticks of 10 ms, from the fields behind number `skip`: 11 of all threads, 13 of children that have ended.
    fn processor_seconds(skip: usize) -> f64 {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(skip).take(2);
        ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
    }

    fn peak_kib() -> String {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.unwrap_or("?").to_owned()
    }
}
