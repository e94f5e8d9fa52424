//! One process from a prepared image: born in its cgroup where the kernel can do that, so that nothing of it ever ran outside.
//! Does NOT decide what it runs or who it is (see `ranks`, `child`).

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};

use super::child::{Setup, enter};
use super::mask::Mask;
use crate::cgroup::Entry;

/// `struct clone_args` up to the part that names a cgroup.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A program with its words, all as the kernel takes them.
#[derive(Debug)]
pub(super) struct Program {
    /// Absolute.
    pub(super) program: CString,
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    pub(super) work_dir: CString,
    /// What it is bound to; `None`: to nothing.
    pub(super) cpus: Option<Mask>,
}

/// A started process.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) pid: Pid,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// Why it is not bound to its processors, although it should be.
    pub(super) unbound: Option<io::Error>,
}

/// Everything that the child needs, made before there is one: it may not allocate.
struct Birth<'a> {
    image: &'a Program,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    setup: &'a Setup,
    entry: Option<&'a Entry>,
    streams: [RawFd; 3],
    trouble: RawFd,
}

/// Starts `image` as `setup` says, in the group that `entry` leads to.
///
/// # Errors
/// What the kernel said to the step that failed, also one of the child's.
pub(super) fn spawn(image: &Program, setup: &Setup, entry: Option<&Entry>) -> io::Result<Started> {
    let null = OpenOptions::new().read(true).open("/dev/null")?;
    let (stdout, out) = pipe2(OFlag::O_CLOEXEC)?;
    let (stderr, err) = pipe2(OFlag::O_CLOEXEC)?;
    let (trouble, told) = pipe2(OFlag::O_CLOEXEC)?;
    let pointers = |words: &[CString]| -> Vec<*const libc::c_char> {
        let words = words.iter().map(|word| word.as_ptr());
        words.chain([ptr::null()]).collect()
    };
    let birth = Birth {
        image,
        argv: pointers(&image.argv),
        env: pointers(&image.env),
        setup,
        entry,
        streams: [null.as_raw_fd(), out.as_raw_fd(), err.as_raw_fd()],
        trouble: told.as_raw_fd(),
    };
    let (pid, born) = fork_into(entry.and_then(Entry::tree))?;
    if pid == 0 {
        begin(&birth, born);
    }
    drop((null, out, err, told));
    let pid = Pid::from_raw(pid);
    let (mut trouble, mut word) = (File::from(trouble), [0; 4]);
    let mut unbound = None;
    // Closed by exec, or by death.
    while trouble.read_exact(&mut word).is_ok() {
        match i32::from_ne_bytes(word) {
            code @ ..0 => unbound = Some(io::Error::from_raw_os_error(-code)),
            code => {
                let _ = waitpid(pid, None);
                return Err(io::Error::from_raw_os_error(code));
            }
        }
    }
    Ok(Started {
        pid,
        stdout,
        stderr,
        unbound,
    })
}

/// A child of this thread. Second: it was born in the group.
fn fork_into(group: Option<RawFd>) -> io::Result<(libc::pid_t, bool)> {
    if let Some(fd) = group.and_then(|fd| u64::try_from(fd).ok()) {
        let args = CloneArgs {
            flags: CLONE_INTO_CGROUP,
            exit_signal: libc::SIGCHLD as u64,
            cgroup: fd,
            ..CloneArgs::default()
        };
        // SAFETY: `args` outlives the call and has the size that is said; without a stack and without shared memory this is a fork,
        // in a process with one thread.
        let pid =
            unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
        match libc::pid_t::try_from(pid) {
            Ok(pid) if pid >= 0 => return Ok((pid, true)),
            // The group has as many processes as it may have; another way would not help.
            _ if io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN) => {
                return Err(io::Error::last_os_error());
            }
            // Linux before 5.7, or a filter that does not know the call.
            _ => {}
        }
    }
    // SAFETY: a process with one thread: the child may do what the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok((pid, false)),
    }
}

/// In the child: becomes the program, or tells why not and ends.
fn begin(birth: &Birth<'_>, born: bool) -> ! {
    let Err(error) = become_program(birth, born);
    tell(birth, error.raw_os_error().unwrap_or(libc::EINVAL));
    // SAFETY: the end, without a word to anything of the parent that lies in our memory.
    unsafe { libc::_exit(127) }
}

/// In the child: why it cannot become its program; a negative one: why it is not bound, and goes on.
fn tell(birth: &Birth<'_>, code: i32) {
    let word = code.to_ne_bytes();
    // SAFETY: four bytes that live on the stack.
    unsafe { libc::write(birth.trouble, word.as_ptr().cast(), word.len()) };
}

fn become_program(birth: &Birth<'_>, born: bool) -> io::Result<Infallible> {
    for (to, from) in (0..).zip(birth.streams) {
        // SAFETY: takes two integers and touches no memory.
        if unsafe { libc::dup2(from, to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    move_in(birth.setup, birth.entry, born)?;
    // After the groups: to enter one gives a process all the processors of that one.
    if let Some(Err(error)) = birth.image.cpus.as_ref().map(Mask::bind) {
        tell(birth, -error.raw_os_error().unwrap_or(libc::EINVAL));
    }
    // SAFETY: a text that ends in NUL.
    if unsafe { libc::chdir(birth.image.work_dir.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    enter(birth.setup)?;
    // SAFETY: texts that end in NUL and arrays that end in a null pointer, all alive: they were made before the fork.
    unsafe {
        libc::execvpe(
            birth.image.program.as_ptr(),
            birth.argv.as_ptr(),
            birth.env.as_ptr(),
        )
    };
    Err(io::Error::last_os_error())
}

/// Between fork and exec: into the groups, unless the process was `born` in the tree's, and into the room. System calls only.
pub(super) fn move_in(setup: &Setup, entry: Option<&Entry>, born: bool) -> io::Result<()> {
    for fd in entry.into_iter().flat_map(|entry| entry.procs(born)) {
        // SAFETY: one byte of a constant.
        if unsafe { libc::write(fd, c"0".as_ptr().cast(), 1) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    if let Some(room) = &setup.room {
        // SAFETY: takes two integers and touches no memory.
        if unsafe { libc::setns(room.as_raw_fd(), libc::CLONE_NEWNS) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mlctl_proto::spec::Ranges;
    use nix::unistd::getpid;

    use super::*;

    fn c(text: &str) -> CString {
        CString::new(text).expect("no NUL")
    }

    fn image(script: &str) -> Program {
        Program {
            program: c("/bin/sh"),
            argv: ["sh", "-c", script].map(c).into(),
            env: vec![c("A=1")],
            work_dir: c("/"),
            cpus: None,
        }
    }

    // The tests of one process run in many threads; what is forked here calls nothing that another thread may hold.
    #[test]
    fn output_environment_and_place_are_as_asked() {
        let setup = Setup::of(getpid());
        let started = spawn(&image("pwd; echo $A; echo e >&2"), &setup, None).expect("started");
        let text = |fd: OwnedFd| io::read_to_string(File::from(fd)).expect("text");
        assert_eq!(text(started.stdout), "/\n1\n");
        assert_eq!(text(started.stderr), "e\n");
        waitpid(started.pid, None).expect("a child of ours");
    }

    #[test]
    fn what_cannot_be_bound_runs_all_the_same_and_that_is_told() {
        let setup = Setup::of(getpid());
        let bound = |cpus: &str| {
            let mut image = image("grep Cpus_allowed_list /proc/self/status");
            image.cpus = Mask::of(&Ranges::parse(cpus, u32::MAX).expect("a list"));
            let started = spawn(&image, &setup, None).expect("started");
            let text = io::read_to_string(File::from(started.stdout)).expect("text");
            waitpid(started.pid, None).expect("a child of ours");
            let list = text.split_whitespace().last().unwrap_or_default();
            (
                list.to_owned(),
                started.unbound.map(|why| why.raw_os_error()),
            )
        };
        let own = std::fs::read_to_string("/proc/self/status").expect("text");
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let own = own.expect("on Linux").trim();
        let first = Ranges::parse(own, u32::MAX).expect("a list").first();
        let first = first.expect("we run on one").to_string();
        assert_eq!(bound(&first), (first.clone(), None));
        // What is there of it counts.
        assert_eq!(bound(&format!("{first},60000")), (first, None));
        assert_eq!(bound("60000"), (own.to_owned(), Some(Some(libc::EINVAL))));
    }

    #[test]
    fn what_fails_in_the_child_is_told_here() {
        let setup = Setup::of(getpid());
        let mut nowhere = image("true");
        nowhere.work_dir = c("/no/such/place");
        let mut nothing = image("true");
        nothing.program = c("/no/such/program");
        for bad in [nowhere, nothing] {
            let error = spawn(&bad, &setup, None).expect_err("cannot be");
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        }
    }
}
