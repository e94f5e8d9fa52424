//! The driver of nodes that have one: the library of `tests/fake-nvml`, steered by a file in the node's home.
//! Does NOT know what agents make of it.

use super::Fleet;

/// The file that says what the driver shows, in a node's home.
pub(super) const DRIVER: &str = "driver";

impl Fleet {
    /// What the driver of a node shows from now on, in the words of `tests/fake-nvml`.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn set_driver(&self, node: &str, text: &str) {
        let file = self.home(node).join(DRIVER);
        // Whole at once: the driver reads it at any time.
        let fresh = file.with_extension("new");
        let written = std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, &file));
        written.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}
