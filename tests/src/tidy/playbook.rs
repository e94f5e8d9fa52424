//! Rule: every playbook passes ansible's own syntax check.
//! Does NOT run a playbook; without ansible the check is skipped loudly.

use super::Violation;
use std::path::Path;
use std::process::Command;

/// The folder of the playbooks.
pub const FOLDER: &str = "ansible";

/// Checks every playbook in `folder`; `Ok(None)` when ansible is not installed.
///
/// # Errors
/// A sentence when the folder cannot be listed.
pub fn check(folder: &Path) -> Result<Option<Vec<Violation>>, String> {
    let entries =
        std::fs::read_dir(folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".yml") && !name.starts_with("inventory"))
        .collect();
    names.sort();
    let mut violations = Vec::new();
    if names.is_empty() {
        violations.push(Violation::new(
            FOLDER,
            0,
            "it holds no playbook",
            "write one",
        ));
    }
    for name in names {
        let result = Command::new("ansible-playbook")
            .args(["--syntax-check", "-i", "localhost,", &name])
            .current_dir(folder)
            .env("ANSIBLE_NOCOLOR", "1")
            .env("LC_ALL", "C.UTF-8")
            .output();
        let Ok(output) = result else {
            return Ok(None);
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let what = format!("ansible-playbook --syntax-check says: {}", said.trim());
            violations.push(Violation::new(
                &format!("{FOLDER}/{name}"),
                0,
                what,
                "mend the playbook",
            ));
        }
    }
    Ok(Some(violations))
}
