//! The code that ships: every Rust file, blanked, without test-only items and without files that are only tests.
//! Does NOT follow `cfg` further than `#[cfg(test)]`.

use super::scan::without_tests;
use super::{SourceFile, Tree, is_under};

/// The production code of a tree.
pub fn production(tree: &Tree) -> Vec<SourceFile> {
    let mut test_only = Vec::new();
    let mut files = Vec::new();
    for file in tree.rust() {
        let (text, modules) = without_tests(&file.text);
        for module in modules {
            let stem = match module.path {
                Some(path) => format!("{}/{}", folder_of(&file.path), path.trim_end_matches(".rs")),
                None => format!("{}/{}", module_folder(&file.path), module.name),
            };
            test_only.push(stem);
        }
        let path = file.path.clone();
        files.push(SourceFile { path, text });
    }
    files.retain(|file| {
        let stem = file.path.strip_suffix(".rs").unwrap_or(&file.path);
        !test_only.iter().any(|test| is_under(stem, test))
    });
    files
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The folder where the child modules of a file lie.
fn module_folder(path: &str) -> &str {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let roots = ["/mod", "/lib", "/main"];
    roots
        .iter()
        .find_map(|root| stem.strip_suffix(root))
        .unwrap_or(stem)
}

#[cfg(test)]
mod tests {
    use super::production;
    use crate::tidy::Tree;

    #[test]
    fn leaves_tests_out() {
        let tree = Tree::of(&[
            ("a/src/lib.rs", "#[cfg(test)] mod testing; mod b;"),
            ("a/src/testing.rs", ""),
            ("a/src/testing/more.rs", ""),
            ("a/src/b/mod.rs", "#[cfg(test)] mod tests;"),
            ("a/src/b/tests.rs", ""),
            (
                "a/src/b/c.rs",
                "#[cfg(test)]\n#[path = \"c_tests.rs\"]\nmod tests;",
            ),
            ("a/src/b/c_tests.rs", ""),
            ("a/src/tests.rs", ""),
        ]);
        let left: Vec<String> = production(&tree).into_iter().map(|f| f.path).collect();
        assert_eq!(
            left,
            [
                "a/src/lib.rs",
                "a/src/b/mod.rs",
                "a/src/b/c.rs",
                "a/src/tests.rs"
            ]
        );
    }
}
