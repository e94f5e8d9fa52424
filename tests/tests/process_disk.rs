//! Disks that fill up: new jobs are refused and say whose disk it is, work that runs ends as ever, and with room again all is as before.
//! Does NOT fill a node's disk. Each coordinator's data is on a small disk of its own, which the test fills with one big file.

use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

use mlctl_proto::errors::Code;
use mlctl_tests::process::client::Client;
use mlctl_tests::process::disk::{self, Disk};
use mlctl_tests::process::fleet::{Fleet, Plan};
use mlctl_tests::process::until;
use mlctl_tests::tidy::skips;
use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;

/// Of each disk. The log takes files of 16 MiB, the reserve of a dev cluster is as much, its mark twice that.
const DISK_MIB: u64 = 224;
const SOON: Duration = Duration::from_secs(20);
const FILLER: &str = "filler";

fn free(disk: &Disk) -> u64 {
    let about = statvfs(disk.path()).expect("measured");
    about.blocks_available() * about.fragment_size()
}

/// Leaves `mib` MiB free; more were free before.
fn fill(disk: &Disk, mib: u64) {
    let path = disk.path().join(FILLER);
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .expect("opened");
    let has = file.metadata().expect("known").len();
    let more = free(disk).saturating_sub(mib << 20);
    let length = i64::try_from(has + more).expect("a small disk");
    posix_fallocate(&file, 0, length).expect("the filler fits");
}

fn empty(disk: &Disk) {
    fs::remove_file(disk.path().join(FILLER)).expect("removed");
}

fn spec(name: &str, script: &str) -> Vec<u8> {
    serde_json::json!({ "name": name, "command": ["sh", "-c", script], "nodes": 1 })
        .to_string()
        .into_bytes()
}

/// A client and everything that it was told.
struct Told {
    client: Client,
    next: u8,
    taken: Vec<String>,
}

impl Told {
    fn key(&mut self) -> [u8; 16] {
        self.next += 1;
        [self.next; 16]
    }

    fn submit(&mut self, name: &str, script: &str) -> String {
        let key = self.key();
        let reply = self.client.submit(key, &spec(name, script));
        let job = reply
            .unwrap_or_else(|refusal| panic!("{name}: {refusal}"))
            .job;
        self.taken.push(job.clone());
        job
    }

    /// Waits until a submit is refused for a full disk, and returns its text.
    fn refused(&mut self) -> String {
        until("a submit that is refused", SOON, || {
            let key = self.key();
            match self.client.submit(key, &spec("extra", "true")) {
                Ok(reply) => {
                    self.taken.push(reply.job);
                    None
                }
                Err(refusal) => {
                    assert_eq!(refusal.code, Code::DiskFull, "{refusal}");
                    Some(refusal.message)
                }
            }
        })
    }

    fn cancel(&mut self, job: &str) {
        let key = self.key();
        let reply = self.client.cancel(key, vec![job.to_owned()]);
        reply.unwrap_or_else(|refusal| panic!("cancel of {job}: {refusal}"));
        self.until_state(job, "Cancelled");
    }

    fn until_state(&mut self, job: &str, state: &str) {
        until(&format!("job {job} {state}"), SOON, || {
            let seen = self.client.get(job).ok()?.state;
            (seen == state).then_some(())
        });
    }

    /// Everything that was acknowledged is there, once.
    fn check(&mut self) {
        let listed = self.client.list().expect("listed");
        for job in &self.taken {
            let found = listed.iter().filter(|one| one.id == *job).count();
            assert_eq!(found, 1, "job {job} was acknowledged");
        }
    }
}

/// The word that coordinator `place` says of itself.
fn condition(told: &mut Told, place: usize) -> Option<String> {
    let reply = told.client.hello(place).ok()?;
    let own = reply.members.into_iter().find(|member| member.self_)?;
    Some(own.condition)
}

fn until_condition(told: &mut Told, places: &[usize], word: &str) {
    for place in places {
        until(&format!("coordinator {place} {word}"), SOON, || {
            (condition(told, *place)? == word).then_some(())
        });
    }
}

fn reserve(disk: &Disk) -> bool {
    disk.path().join("data/reserve").exists()
}

/// Fills the disks of the coordinators at `places` in two steps and empties them again.
fn round(fleet: &Fleet, told: &mut Told, places: &[usize]) {
    let gate = fleet.work().join(format!("go-{}", told.next));
    let wait = |name: &str, code: u8| {
        let gate = gate.display();
        (
            name.to_owned(),
            format!("while [ ! -e {gate} ]; do sleep 0.05; done; exit {code}"),
        )
    };
    let (name, script) = wait("ends", 5);
    let ends = told.submit(&name, &script);
    let stays = told.submit("stays", "sleep 1000");
    told.until_state(&ends, "Running");
    told.until_state(&stays, "Running");
    let waits = told.submit("waits", "sleep 1000");
    let disks: Vec<&Disk> = places.iter().map(|place| &fleet.disks()[*place]).collect();

    disks.iter().for_each(|disk| fill(disk, 24));
    until_condition(told, places, "LowDisk");
    let text = told.refused();
    let named = |disk: &&Disk| text.contains(&disk.path().display().to_string());
    assert!(disks.iter().any(named), "{text}");
    for word in ["coordinator c", "bytes) free", "mark of 32 MiB"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    fs::write(&gate, "").expect("opened");
    told.until_state(&ends, "Failed");
    told.cancel(&waits);
    assert!(
        disks.iter().all(|disk| reserve(disk)),
        "the reserve is there still"
    );

    disks.iter().for_each(|disk| fill(disk, 1));
    until_condition(told, places, "ShortDisk");
    assert!(
        disks.iter().all(|disk| !reserve(disk)),
        "the reserve is given up"
    );
    told.refused();
    told.cancel(&stays);

    disks.iter().for_each(|disk| empty(disk));
    until_condition(told, places, "Fine");
    assert!(
        disks.iter().all(|disk| reserve(disk)),
        "the reserve is back"
    );
    let after = until("a submit after the shortage", SOON, || {
        let key = told.key();
        told.client.submit(key, &spec("after", "exit 0")).ok()
    });
    told.taken.push(after.job.clone());
    told.until_state(&after.job, "Completed");
    told.check();
}

fn said_once(fleet: &Fleet, rounds: usize) {
    for name in fleet.coordinators() {
        let log = fleet.log(&name);
        for text in [
            "disk space is low",
            "the disk is nearly full",
            "the index cannot be built",
        ] {
            let count = log.matches(text).count();
            // Filling goes down both steps, and emptying may pass the upper one again.
            assert!(count <= 2 * rounds, "{name} says {count} times that {text}");
        }
    }
}

fn on_small_disks() -> (Fleet, Told) {
    let fleet = Fleet::start(&Plan {
        disk_mib: Some(DISK_MIB),
        ..Plan::default()
    });
    let told = Told {
        client: Client::new(fleet.context(), 0),
        next: 0,
        taken: Vec::new(),
    };
    (fleet, told)
}

#[test]
fn a_full_disk_refuses_jobs_and_nothing_else() {
    if let Some(why) = disk::obstacle() {
        return skips::skip(
            "process_disk::a_full_disk_refuses_jobs_and_nothing_else",
            &why,
        );
    }
    let (mut fleet, mut told) = on_small_disks();
    let leader = fleet.leader();
    let place = fleet.coordinators().iter().position(|name| *name == leader);
    let place = place.expect("it is one of them");
    until_condition(&mut told, &[0, 1, 2], "Fine");
    round(&fleet, &mut told, &[place]);
    round(&fleet, &mut told, &[0, 1, 2]);
    said_once(&fleet, 2);

    // One that is down while its disk fills to the last byte starts all the same: it gives up its reserve first.
    let victim = (place + 1) % 3;
    let name = fleet.coordinators()[victim].clone();
    fleet.kill(&[&name]);
    fill_up(&fleet.disks()[victim]);
    fleet.start_one(&name);
    until_condition(&mut told, &[victim], "ShortDisk");
    // It can be done without, so jobs are taken; it follows all the same.
    let job = told.submit("meanwhile", "exit 0");
    told.until_state(&job, "Completed");
    fleet.wait_whole();
    empty(&fleet.disks()[victim]);
    until_condition(&mut told, &[victim], "Fine");
    told.check();
}

/// The leader's disk takes nothing any more, as one that fell off its bus. The file system says so to every write and sync.
#[test]
fn a_dead_disk_ends_its_member_which_says_what_to_do() {
    if let Some(why) = disk::obstacle() {
        let name = "process_disk::a_dead_disk_ends_its_member_which_says_what_to_do";
        return skips::skip(name, &why);
    }
    let (mut fleet, mut told) = on_small_disks();
    for round in 0..2 {
        told.submit("before", "exit 0");
        let name = fleet.leader();
        let place = fleet.coordinators().iter().position(|one| *one == name);
        let place = place.expect("it is one of them");
        let said = fleet.log(&name).len();
        disk::cut_power(&[&fleet.disks()[place]]);
        // Its client asks the others once it is gone, and no acknowledged job is lost.
        let job = told.submit("during", "exit 0");
        let status = fleet.ended_with(&name);
        assert!(!status.success(), "{status}");
        let text = fleet.log(&name).split_off(said);
        for word in [
            "Input/output error",
            "see to the disk",
            "--rejoin",
            "the process ends",
        ] {
            assert!(text.contains(word), "nothing about `{word}`: {text}");
        }
        assert!(!text.contains("panicked"), "round {round}: {text}");
        told.until_state(&job, "Completed");
        fleet.disks()[place].boot();
        fleet.start_one(&name);
        fleet.wait_whole();
        told.check();
    }
}

/// Not one block is left.
fn fill_up(disk: &Disk) {
    // The last MiB in small writes: the file system wants some of it for its own lists.
    fill(disk, 1);
    let mut crumbs = File::create(disk.path().join("crumbs")).expect("made");
    let written = (0..1024).try_for_each(|_| crumbs.write_all(&[0; 4096]));
    assert!(written.is_err(), "{} bytes are left", free(disk));
}
