//! Prints what sealing, receiving and restoring checkpoints costs on this machine: `cargo run --release -p mlctl-blobs --example
//! checkpoint_figures -- DIR`, where DIR is a new directory on the disk in question. Does NOT compare with anything, and judges nothing.

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os().nth(1).ok_or("name a new directory")?;
    figures::all(std::path::Path::new(&dir))
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("checkpoints are kept on Linux only");
}

#[cfg(target_os = "linux")]
mod figures {
    use std::error::Error;
    use std::fs;
    use std::io::Write;
    use std::path::Path;
    use std::time::Instant;

    use mlctl_blobs::checkpoint::{CheckpointStore, Options, Restore};

    type Done = Result<(), Box<dyn Error>>;

    pub fn all(dir: &Path) -> Done {
        fs::create_dir(dir)?;
        let options = Options {
            limit_bytes: u64::MAX,
            threads: 2,
        };
        let one = CheckpointStore::open(dir.join("one"), options)?;
        let two = CheckpointStore::open(dir.join("two"), options)?;
        let sparse = dir.join("sparse");
        fs::create_dir(&sparse)?;
        let mut file = fs::File::create(sparse.join("f"))?;
        file.write_all(b"head")?;
        file.set_len(20 << 30)?;
        through("20 GiB sparse", &one, &two, &sparse, dir)?;
        let large = dir.join("large");
        write_large(&large)?;
        through(
            "64 x 32 MiB + 500 small, just written",
            &one,
            &two,
            &large,
            dir,
        )?;
        let many = dir.join("many");
        for number in 0..100_000_u32 {
            if number % 1_000 == 0 {
                fs::create_dir_all(many.join((number / 1_000).to_string()))?;
            }
            let path = many.join(format!("{}/{number}", number / 1_000));
            fs::write(path, number.to_le_bytes().repeat(256))?;
        }
        through("100,000 files of 1 KiB", &one, &two, &many, dir)?;
        Ok(fs::remove_dir_all(dir)?)
    }

    fn write_large(dir: &Path) -> Done {
        fs::create_dir(dir)?;
        let mut state = 1_u64;
        let mut bytes = vec![0; 32 << 20];
        for number in 0..64 {
            for word in bytes.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            fs::write(dir.join(format!("shard-{number}")), &bytes)?;
        }
        for number in 0..500 {
            fs::write(dir.join(format!("small-{number}")), &bytes[..number * 40])?;
        }
        Ok(())
    }

    fn through(
        name: &str,
        one: &CheckpointStore,
        two: &CheckpointStore,
        source: &Path,
        dir: &Path,
    ) -> Done {
        println!("{name}");
        let sealed = timed("seal", || one.seal(source))?;
        let manifest = one.manifest_bytes(&sealed.id)?;
        println!("  {sealed:?}, manifest of {} bytes", manifest.len());
        timed("receive, chunk by chunk in this process", || -> Done {
            let receive = two.receive(&manifest, &[])?.ok_or("is held already")?;
            let (mut reader, mut bytes) = (one.reader(&sealed.id)?, Vec::new());
            for index in receive.want().iter() {
                reader.read(index, &mut bytes)?;
                receive.write(index, &bytes)?;
            }
            receive.finish()?;
            Ok(())
        })?;
        timed("restore, all hashed, shared", || {
            two.restore(&sealed.id, &dir.join("out"), Restore::default())
        })?;
        timed("verify, from the disk", || two.verify(&sealed.id))?;
        fs::remove_dir_all(dir.join("out"))?;
        fs::remove_dir_all(source)?;
        one.remove(&sealed.id)?;
        Ok(two.remove(&sealed.id)?)
    }

    fn timed<T, E>(name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let (start, before) = (Instant::now(), processor_seconds());
        let result = work()?;
        let (wall, processor) = (start.elapsed().as_secs_f64(), processor_seconds() - before);
        let peak = peak_kib();
        println!(
            "  {name}: {wall:.2} s, {processor:.2} s of processors, {peak} KiB at most so far"
        );
        Ok(result)
    }

    /// User and system time of all threads; ticks are 10 ms.
    fn processor_seconds() -> f64 {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
    }

    fn peak_kib() -> String {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.unwrap_or("?").to_owned()
    }
}
