//! Compares versions with the ranges that `deny.toml` bans: `name`, or `name@<1.2.3` with comparators joined by commas.
//! Does NOT know carets, tildes and pre-releases: the list does not need them.

/// The three numbers of a version; what follows `-` or `+` is left out.
pub fn numbers(version: &str) -> Option<[u64; 3]> {
    let plain = version.split(['-', '+']).next()?;
    let mut parts = plain.split('.');
    let mut numbers = [0; 3];
    for number in &mut numbers {
        match parts.next() {
            Some(part) => *number = part.parse().ok()?,
            None => break,
        }
    }
    parts.next().is_none().then_some(numbers)
}

/// Does `version` lie in `range`?
///
/// # Errors
/// A sentence when the range or the version cannot be read.
pub fn lies_in(version: &str, range: &str) -> Result<bool, String> {
    let own = numbers(version).ok_or_else(|| format!("`{version}` is not a version"))?;
    for comparator in range.split(',').map(str::trim) {
        let digits = comparator
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(comparator.len());
        let (sign, bound) = comparator.split_at(digits);
        let bound = numbers(bound).ok_or_else(|| format!("`{range}` is not a range"))?;
        let holds = match sign.trim() {
            "<" => own < bound,
            "<=" => own <= bound,
            ">" => own > bound,
            ">=" => own >= bound,
            "=" => own == bound,
            _ => return Err(format!("`{range}` is not a range: use <, <=, >, >= or =")),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::lies_in;

    #[test]
    fn compares() {
        for (version, range, expect) in [
            ("0.11.14", "<0.11.15", Some(true)),
            ("0.11.15", "<0.11.15", Some(false)),
            ("0.11.100", "<0.11.15", Some(false)),
            ("0.9.2", ">=0.9, <0.9.3", Some(true)),
            ("0.8.8", ">=0.9, <0.9.3", Some(false)),
            ("1.0.0-alpha.1", "=1", Some(true)),
            ("1.2", "^1", None),
            ("x", "<1", None),
            ("1", "", None),
        ] {
            assert_eq!(lies_in(version, range).ok(), expect, "{version} {range}");
        }
    }
}
