//! What torchrun says on standard error when one of its ranks fails. It stays for up to five minutes after that, waiting for the torchruns of
//! other nodes, whose ranks may hang for want of the one that failed: whoever waits for its end learns of the failure too late.
//!
//! Reads a line, nothing else. A release of PyTorch that words it differently is noticed later, when its torchrun ends.

/// How a rank of a torchrun failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    /// Its exit code, when `signal` is 0.
    pub(super) code: i32,
    /// The signal that ended it, 0 if it exited.
    pub(super) signal: i32,
}

/// The failure that a line of torchrun's own log tells of.
pub(super) fn failure(line: &[u8]) -> Option<Failure> {
    let line = std::str::from_utf8(line).ok()?;
    let (source, told) = line.split_once("failed (exitcode: ")?;
    // `torch.distributed.elastic.multiprocessing.api` or, later, `torch/distributed/elastic/multiprocessing/api.py`.
    if !source
        .replace('/', ".")
        .contains("torch.distributed.elastic.multiprocessing")
    {
        return None;
    }
    let (number, rest) = told.split_once(')')?;
    if !rest.starts_with(" local_rank: ") {
        return None;
    }
    match number.parse::<i32>().ok()? {
        0 => None,
        code @ 1.. => Some(Failure { code, signal: 0 }),
        signal => Some(Failure {
            code: 0,
            signal: signal.checked_neg()?,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_words_count() {
        let old = "ERROR:torch.distributed.elastic.multiprocessing.api:failed (exitcode: 7) local_rank: 1 (pid: 9) of binary: python3";
        let new = "E0101 09:00:00.1 9 torch/distributed/elastic/multiprocessing/api.py:869] failed (exitcode: -9) local_rank: 0 (pid: 9)";
        let check = |line: &str, want: Option<(i32, i32)>| {
            let found = failure(line.as_bytes()).map(|failure| (failure.code, failure.signal));
            assert_eq!(found, want, "{line}");
        };
        check(old, Some((7, 0)));
        check(new, Some((0, 9)));
        check(&old.replace("7)", "0)"), None);
        check(&old.replace("7)", "-2147483648)"), None);
        check(&old.replace("7)", "99999999999)"), None);
        check(&old.replace("7)", "x)"), None);
        check("train.py: failed (exitcode: 7) local_rank: 1", None);
        check(
            "torch.distributed.elastic.multiprocessing.api:failed (exitcode: 7",
            None,
        );
        check(
            "torch.distributed.elastic.multiprocessing.api:failed (exitcode: 7) of binary",
            None,
        );
        check("", None);
        assert_eq!(failure(b"\xff failed (exitcode: 7) local_rank: "), None);
    }
}
