//! What if less were in the way: for one question; nothing is placed on it. Does NOT say what is in the way.
use std::sync::Arc;

use super::capacity::{Capacity, SOMEBODY};
use super::stock::Stock;
use super::tables::number;
use crate::state::view::nodes::Open;

impl Capacity {
    /// Nobody holds anything.
    pub fn empty(&mut self) {
        let tables = self.tables.clone();
        for (free, device) in self.free.iter_mut().zip(&tables.devices) {
            *free = device.full;
        }
        self.holders.fill(SOMEBODY);
        for (site, of) in tables.sites.iter().enumerate() {
            self.rooms[site].free = Stock::of(of.has);
            self.refresh(number(site));
        }
    }

    /// Nodes that take no work do.
    pub fn open_closed(&mut self) {
        let tables = self.tables.clone();
        for (site, of) in tables.sites.iter().enumerate() {
            if of.open == Open::No {
                self.rooms[site].open = true;
                self.refresh(number(site));
            }
        }
    }

    /// Nodes have no maintenance windows, or no owners.
    pub fn drop_terms(&mut self, windows: bool, owners: bool) {
        for site in &mut Arc::make_mut(&mut self.tables).sites {
            if windows {
                site.windows.clear();
            }
            if owners {
                site.owner = None;
            }
        }
    }
}
