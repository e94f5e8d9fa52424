//! Numbers of names that come up again and again in a pass. Most are the very same string, so that their address tells: it is only looked up, what is found never
//! depends on the order of addresses. Does NOT outlive the scene whose names these are.
use std::collections::BTreeMap;
use std::sync::Arc;

/// Dense numbers, in the order in which names came up.
#[derive(Debug, Default)]
pub struct Names<'a> {
    by_address: BTreeMap<usize, u32>,
    by_name: BTreeMap<&'a str, u32>,
}

fn address(name: &Arc<str>) -> usize {
    Arc::as_ptr(name).cast::<u8>() as usize
}

impl<'a> Names<'a> {
    /// The number of a name; a new one if it did not come up before.
    pub fn number(&mut self, name: &'a Arc<str>) -> u32 {
        if let Some(known) = self.by_address.get(&address(name)) {
            return *known;
        }
        let next = u32::try_from(self.by_name.len()).unwrap_or(u32::MAX);
        let number = *self.by_name.entry(name).or_insert(next);
        self.by_address.insert(address(name), number);
        number
    }

    /// The number of a name that came up before.
    pub fn known(&self, name: &Arc<str>) -> Option<u32> {
        let known = self
            .by_address
            .get(&address(name))
            .or_else(|| self.by_name.get(&**name));
        known.copied()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }
}
