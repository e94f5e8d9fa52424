//! Decides whether a licence expression is satisfied by an allow-list.
//! Does NOT read licence texts.

/// Is the SPDX expression satisfied by the allowed licences? `/` is an old way to write OR; `X+` counts as X.
pub fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader {
        tokens: &tokens,
        allowed,
    };
    let result = reader.either();
    result && reader.tokens.is_empty()
}

struct Reader<'a> {
    tokens: &'a [&'a str],
    allowed: &'a [String],
}

impl Reader<'_> {
    fn take(&mut self, word: &str) -> bool {
        let taken = self.tokens.first() == Some(&word);
        if taken {
            self.tokens = &self.tokens[1..];
        }
        taken
    }

    fn either(&mut self) -> bool {
        let mut result = self.both();
        while self.take("OR") {
            result |= self.both();
        }
        result
    }

    fn both(&mut self) -> bool {
        let mut result = self.one();
        while self.take("AND") {
            result &= self.one();
        }
        result
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let inside = self.either();
            return self.take(")") && inside;
        }
        let Some((name, rest)) = self.tokens.split_first() else {
            return false;
        };
        self.tokens = rest;
        let mut name = name.trim_end_matches('+').to_owned();
        if self.take("WITH") {
            let Some((exception, rest)) = self.tokens.split_first() else {
                return false;
            };
            self.tokens = rest;
            name = format!("{name} WITH {exception}");
        }
        self.allowed.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::satisfied;

    #[test]
    fn reads_expressions() {
        let allowed: Vec<String> = ["MIT", "ISC", "MPL-2.0", "Apache-2.0 WITH LLVM-exception"]
            .map(String::from)
            .into();
        for (expression, expect) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(GPL-3.0 OR MIT) AND ISC", true),
            ("ISC AND (GPL-3.0 OR Apache-2.0)", false),
            ("MPL-2.0+", true),
            ("Apache-2.0", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0 WITH", false),
            ("(MIT", false),
            ("MIT ISC", false),
            ("", false),
        ] {
            assert_eq!(satisfied(expression, &allowed), expect, "{expression}");
        }
    }
}
