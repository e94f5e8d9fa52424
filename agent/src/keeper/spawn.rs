//! Starts many processes of one program, one after the other: what they have in common is made once, and no start copies the keeper's
//! memory. A gang's few ranks are started by `ranks`; what a process is at birth is `child`'s for both.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::unistd::Pid;

use super::birth::move_in;
use super::child::{Setup, enter};
use super::mask::Mask;
use super::ranks::Started;
use crate::cgroup::Entry;

/// The new process runs on it until it is its program: some system calls and a setrlimit deep.
const STACK_BYTES: usize = 128 * 1024;

/// A program with its arguments.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) program: CString,
    pub(super) argv: Vec<CString>,
    /// Where it runs.
    pub(super) dir: CString,
    /// `KEY=VALUE`, for each slot.
    pub(super) env: Vec<Vec<CString>>,
    /// What it is bound to in each slot; `None`: to nothing.
    pub(super) cpus: Vec<Option<Mask>>,
}

/// What the new process reads, and where it leaves word of why it could not become its program.
struct Birth<'a> {
    program: *const libc::c_char,
    argv: *const *const libc::c_char,
    env: *const *const libc::c_char,
    dir: *const libc::c_char,
    stdio: [RawFd; 3],
    setup: &'a Setup,
    entry: Option<&'a Entry>,
    cpus: Option<&'a Mask>,
    error: i32,
    /// Why it is not bound, although it should be; 0: it is.
    unbound: i32,
}

/// Starts processes.
#[derive(Debug)]
pub(super) struct Spawner {
    image: Image,
    argv: Vec<*const libc::c_char>,
    null: File,
    /// Of 16 bytes each, which is how a stack has to lie.
    stack: Vec<u128>,
}

impl Spawner {
    /// # Errors
    /// When there is no `/dev/null`.
    pub(super) fn new(image: Image) -> io::Result<Self> {
        let null = File::open("/dev/null")?;
        let argv = pointers(&[&image.argv]);
        Ok(Self {
            image,
            argv,
            null,
            stack: vec![0; STACK_BYTES / size_of::<u128>()],
        })
    }

    /// Starts one in `slot`, with `own` variables beside that slot's. `setup`: what it is before it becomes its program, in the groups of
    /// `entry`.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn start(
        &mut self,
        slot: usize,
        own: &[CString],
        setup: &Setup,
        entry: Option<&Entry>,
    ) -> io::Result<Started> {
        let shared = self.image.env.get(slot).map_or(&[][..], Vec::as_slice);
        let env = pointers(&[shared, own]);
        let (stdout, out) = io::pipe()?;
        let (stderr, err) = io::pipe()?;
        let mut birth = Birth {
            program: self.image.program.as_ptr(),
            argv: self.argv.as_ptr(),
            env: env.as_ptr(),
            dir: self.image.dir.as_ptr(),
            stdio: [self.null.as_raw_fd(), out.as_raw_fd(), err.as_raw_fd()],
            setup,
            entry,
            cpus: self.image.cpus.get(slot).and_then(Option::as_ref),
            error: 0,
            unbound: 0,
        };
        let top = self.stack.as_mut_ptr_range().end;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the child shares our memory and runs on a stack of its own, and we sleep until it has become its program or has ended: nothing
        // that it reads goes away or is written meanwhile. This process has one thread, so no lock is held by another. No handler of
        // ours is called in it: signals that we take are blocked and taken from a descriptor.
        let pid = unsafe { libc::clone(born, top.cast(), flags, (&raw mut birth).cast()) };
        if pid == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the child wrote it, if at all, before we woke up; the compiler does not know of that.
        let error = unsafe { ptr::read_volatile(&raw const birth.error) };
        // SAFETY: the same.
        let unbound = unsafe { ptr::read_volatile(&raw const birth.unbound) };
        if error != 0 {
            let mut status = 0;
            // SAFETY: `status` outlives the call and is the one integer that it writes. The child has ended and is ours.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            return Err(io::Error::from_raw_os_error(error));
        }
        Ok(Started {
            pid: Pid::from_raw(pid),
            stdout: OwnedFd::from(stdout),
            stderr: OwnedFd::from(stderr),
            unbound: (unbound != 0).then(|| io::Error::from_raw_os_error(unbound)),
        })
    }
}

/// Pointers to the texts, and the null behind them that `execve` looks for.
fn pointers(texts: &[&[CString]]) -> Vec<*const libc::c_char> {
    let texts = texts.iter().flat_map(|texts| texts.iter());
    texts
        .map(|text| text.as_ptr())
        .chain([ptr::null()])
        .collect()
}

/// The new process. Never returns: it becomes its program or ends.
extern "C" fn born(birth: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the pointer is that of `Spawner::start`, which sleeps and touches nothing of it until this process is gone from its memory.
    let birth = unsafe { &mut *birth.cast::<Birth>() };
    let error = become_program(birth).raw_os_error();
    // SAFETY: our parent reads it when it wakes up.
    unsafe { ptr::write_volatile(&raw mut birth.error, error.unwrap_or(libc::EINVAL)) };
    // SAFETY: ends this process at once: what runs at an ordinary end is our parent's.
    unsafe { libc::_exit(127) }
}

/// Returns only with why not.
fn become_program(birth: &mut Birth) -> io::Error {
    for (target, fd) in (0..).zip(birth.stdio) {
        // SAFETY: two integers.
        if unsafe { libc::dup2(fd, target) } == -1 {
            return io::Error::last_os_error();
        }
    }
    if let Err(error) = move_in(birth.setup, birth.entry, false) {
        return error;
    }
    // After the groups: to enter one gives a process all the processors of that one.
    if let Some(Err(error)) = birth.cpus.map(Mask::bind) {
        let code = error.raw_os_error().unwrap_or(libc::EINVAL);
        // SAFETY: our parent reads it when it wakes up.
        unsafe { ptr::write_volatile(&raw mut birth.unbound, code) };
    }
    // SAFETY: a text that ends with a null byte and outlives the call.
    if unsafe { libc::chdir(birth.dir) } == -1 {
        return io::Error::last_os_error();
    }
    if let Err(error) = enter(birth.setup) {
        return error;
    }
    // SAFETY: texts and lists that end with a null and outlive the call.
    unsafe { libc::execve(birth.program, birth.argv, birth.env) };
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use nix::unistd::getpid;

    fn setup() -> Setup {
        Setup::of(getpid())
    }

    fn text(text: &str) -> CString {
        CString::new(text).expect("no null byte")
    }

    fn image(program: &str, words: &[&str]) -> Image {
        Image {
            program: text(program),
            argv: words.iter().map(|word| text(word)).collect(),
            dir: text("/"),
            env: vec![vec![text("A=1")], vec![text("A=2")]],
            cpus: Vec::new(),
        }
    }

    fn end_of(started: Started) -> (String, i32) {
        let mut said = String::new();
        File::from(started.stdout)
            .read_to_string(&mut said)
            .expect("read");
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        unsafe { libc::waitpid(started.pid.as_raw(), &raw mut status, 0) };
        (said, libc::WEXITSTATUS(status))
    }

    #[test]
    fn each_has_the_variables_of_its_slot_and_its_own() {
        let script = "echo $A $B $0 $(pwd); exit 3";
        let mut spawner = Spawner::new(image("/bin/sh", &["sh", "-c", script])).expect("null");
        for (slot, says) in [(0, "1 7 sh /\n"), (1, "2 7 sh /\n")] {
            let started = spawner
                .start(slot, &[text("B=7")], &setup(), None)
                .expect("started");
            assert_eq!(end_of(started), (says.to_owned(), 3));
        }
    }

    #[test]
    fn a_slot_that_cannot_be_bound_runs_all_the_same() {
        let mut bound = image("/bin/sh", &["sh", "-c", "exit 3"]);
        bound.cpus = vec![None, Mask::of(&mlctl_proto::spec::Ranges::one(60_000))];
        let mut spawner = Spawner::new(bound).expect("null");
        for (slot, why) in [(0, None), (1, Some(libc::EINVAL)), (2, None)] {
            let mut started = spawner.start(slot, &[], &setup(), None).expect("started");
            let unbound = started.unbound.take();
            assert_eq!(unbound.and_then(|error| error.raw_os_error()), why);
            assert_eq!(end_of(started).1, 3);
        }
    }

    #[test]
    fn what_cannot_be_run_says_why() {
        let mut spawner = Spawner::new(image("/no/such/program", &["x"])).expect("null");
        let error = spawner
            .start(0, &[], &setup(), None)
            .expect_err("not there");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        let mut spawner = Spawner::new(image("/etc/passwd", &["x"])).expect("null");
        let error = spawner
            .start(0, &[], &setup(), None)
            .expect_err("no program");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }
}
