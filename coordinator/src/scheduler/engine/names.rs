//! Numbers of names that come up again and again. Most are the very same string, so that their address tells, as long as that scene is there: it is only looked up,
//! what is found never depends on the order of addresses. Does NOT know what the names are of.
use std::collections::BTreeMap;
use std::sync::Arc;

/// Dense numbers, in the order in which names came up.
#[derive(Debug, Default)]
pub struct Names {
    by_address: BTreeMap<usize, u32>,
    by_name: BTreeMap<Arc<str>, u32>,
    all: Vec<Arc<str>>,
}

impl Names {
    /// The number of a name; a new one if it did not come up before. It has to outlive the next call of [`Self::forget_addresses`].
    pub fn number(&mut self, name: &Arc<str>) -> u32 {
        let address = Arc::as_ptr(name).cast::<u8>() as usize;
        if let Some(known) = self.by_address.get(&address) {
            return *known;
        }
        let number = match self.by_name.get(name) {
            Some(known) => *known,
            None => {
                let next = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
                self.by_name.insert(name.clone(), next);
                self.all.push(name.clone());
                next
            }
        };
        self.by_address.insert(address, number);
        number
    }

    /// What stood there may be gone, and another name be there from now on.
    pub fn forget_addresses(&mut self) {
        self.by_address.clear();
    }

    /// By number.
    pub fn all(&self) -> &[Arc<str>] {
        &self.all
    }
}
