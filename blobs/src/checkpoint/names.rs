//! Which paths and link targets a checkpoint may hold: nothing that could lead out of its directory. Pure.
//! Does NOT know what lies at a path: the manifest's check puts paths in relation to each other.
use super::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};

/// What is wrong with a path, if anything. Names are UTF-8; every character but NUL and `/` may be in one.
pub(super) fn path_fault(path: &str) -> Option<&'static str> {
    if path.is_empty() || path.len() > PATH_BYTES_MAX {
        return Some("is empty or longer than 4096 bytes");
    }
    if path.contains('\0') {
        return Some("holds a zero byte");
    }
    let bad = |name: &str| matches!(name, "" | "." | "..") || name.len() > NAME_BYTES_MAX;
    path.split('/')
        .any(bad)
        .then_some("is absolute or has an empty, `.`, `..` or over-long part")
}

/// What is wrong with the target of the symbolic link at `path`, if anything.
///
/// Steps up may only stand at its beginning. There they start from the link's own directory, whose parents are real
/// directories, so counting them is exact. Behind a name they could start from wherever another link leads.
pub(super) fn target_fault(path: &str, target: &str) -> Option<&'static str> {
    if target.is_empty() || target.len() > PATH_BYTES_MAX || target.contains('\0') {
        return Some("is a link to nowhere");
    }
    if target.starts_with('/') {
        return Some(
            "is an absolute link: only relative ones inside the checkpoint can move with it",
        );
    }
    let depth = path.matches('/').count();
    let (mut up, mut down) = (0, false);
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if down => return Some("is a link that goes up behind a name"),
            ".." => up += 1,
            _ => down = true,
        }
    }
    (up > depth).then_some("is a link that leaves the checkpoint")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let long = "a".repeat(256);
        for (path, good) in [
            ("a", true),
            ("a/b c/ü/模型", true),
            ("..a/b..", true),
            ("new\nline\\", true),
            ("", false),
            ("/etc/passwd", false),
            ("a/", false),
            ("a//b", false),
            ("../a", false),
            ("a/../b", false),
            ("./a", false),
            ("a\0b", false),
            (long.as_str(), false),
            (&"a/".repeat(3_000), false),
        ] {
            assert_eq!(path_fault(path).is_none(), good, "{path:?}");
        }
    }

    #[test]
    fn targets() {
        for (path, target, good) in [
            ("last", "checkpoint-9", true),
            ("last", "./checkpoint-9/", true),
            ("a/last", "../b/c", true),
            ("a/b/last", "../../c", true),
            ("last", "/checkpoint-9", false),
            ("last", "", false),
            ("last", "..", false),
            ("a/last", "../../x", false),
            ("last", "a/../../x", false),
            ("last", "a/..", false),
            ("last", "x\0", false),
        ] {
            assert_eq!(
                target_fault(path, target).is_none(),
                good,
                "{path} -> {target}"
            );
        }
    }
}
