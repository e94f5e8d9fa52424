//! The processors that a rank is bound to, as the kernel takes them: made before there is a child, used between fork and exec.
//! Does NOT choose them (see `launch::cpus`). A rank that cannot be bound runs all the same, on whatever it may use.

use std::io;

use mlctl_proto::spec::Ranges;

/// Above every number of a processor: kernels are built for 8,192 at most.
const CPU_MAX: u32 = 65_535;

/// Words of a set of all of them.
const WORDS: usize = ((CPU_MAX + 1) / libc::c_ulong::BITS) as usize;

/// One bit for each processor, as many words as the highest needs: no kernel's own limit is one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mask(Vec<libc::c_ulong>);

impl Mask {
    /// Those of them that this process may use itself: whoever bound the launcher bound what comes from it. `None`: there are none to bind to.
    pub(super) fn of(cpus: &Ranges) -> Option<Self> {
        let mut mask = Self::all_of(cpus)?;
        let own = own();
        mask.0
            .iter_mut()
            .zip(&own)
            .for_each(|(word, own)| *word &= own);
        Some(mask)
    }

    fn all_of(cpus: &Ranges) -> Option<Self> {
        let known = cpus.and(&Ranges::span(0, CPU_MAX));
        let (bits, last) = (libc::c_ulong::BITS, known.last()?);
        let mut words = vec![0; (last / bits) as usize + 1];
        for cpu in known.iter() {
            if let Some(word) = words.get_mut((cpu / bits) as usize) {
                *word |= 1 << (cpu % bits);
            }
        }
        Some(Self(words))
    }

    /// In the child: binds the calling process. A system call only. What is not there any more, or not allowed, the kernel leaves out.
    ///
    /// # Errors
    /// What the kernel says, as when none of them is left.
    pub(super) fn bind(&self) -> io::Result<()> {
        // SAFETY: the kernel reads so many bytes at that place and no more; both are those of one vector that outlives the call. The type
        // is only the C library's name for the first 1,024 bits of such a set.
        let done = unsafe {
            libc::sched_setaffinity(0, size_of_val(self.0.as_slice()), self.0.as_ptr().cast())
        };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// What this process may use; all, should the kernel not tell.
fn own() -> Vec<libc::c_ulong> {
    let mut words: Vec<libc::c_ulong> = vec![0; WORDS];
    // SAFETY: the kernel writes at most so many bytes at that place; both are those of one vector that outlives the call.
    let told = unsafe {
        let bytes = size_of_val(words.as_slice());
        libc::sched_getaffinity(0, bytes, words.as_mut_ptr().cast())
    };
    match told {
        0 => words,
        _ => vec![libc::c_ulong::MAX; WORDS],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(cpus: &str) -> Option<Vec<libc::c_ulong>> {
        let cpus = Ranges::parse(cpus, u32::MAX).expect("a list");
        Mask::all_of(&cpus).map(|mask| mask.0)
    }

    #[test]
    fn each_processor_has_its_bit() {
        assert_eq!(Mask::of(&Ranges::new()), None);
        assert_eq!(mask("0,3"), Some(vec![0b1001]));
        assert_eq!(mask("63-64"), Some(vec![1 << 63, 1]));
        let high = mask("1024,1100").expect("some");
        assert_eq!((high.len(), high[16], high[17]), (18, 1, 1 << 12));
        // No file makes us ask for memory without end.
        assert_eq!(mask("4294967295"), None);
        assert_eq!(mask("65535-4294967295").expect("one").len(), 1_024);
    }

    #[test]
    fn nobody_is_bound_to_more_than_the_keeper_may_use() {
        let own = own();
        let all = Mask::of(&Ranges::span(0, CPU_MAX)).expect("a mask");
        assert_eq!(all.0, own);
        assert!(own.iter().any(|word| *word > 0), "this test runs somewhere");
    }

    #[test]
    fn processors_that_are_not_there_are_an_error() {
        let none = Mask::of(&Ranges::one(CPU_MAX)).expect("a mask");
        let error = none.bind().expect_err("no machine has it");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
