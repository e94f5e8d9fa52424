//! Attempts that hold something, with the numbers of where and of what it counts as. Does NOT say when they end: that changes with time.
use std::sync::Arc;

use mlctl_proto::ids::{Epoch, JobId};

use super::ground::Ground;
use crate::scheduler::engine::names::Names;
use crate::scheduler::engine::runs::{self, Part};
use crate::state::view::jobs::Running;
use crate::state::view::scene::Scene;

/// One of them.
#[derive(Debug)]
pub struct Kept {
    key: (JobId, Epoch),
    running: Arc<Running>,
    /// The number of its team's name.
    pub team: u32,
    /// Where it is.
    pub parts: Arc<Vec<Part>>,
    /// By flavor, units.
    pub charges: Arc<Vec<(u32, u64)>>,
}

/// All of them, in the scene's order.
#[derive(Debug, Default)]
pub struct Attempts {
    /// In the scene's order.
    pub all: Vec<Kept>,
    /// Their teams.
    pub teams: Names,
}

impl Attempts {
    /// As the scene has them.
    pub fn renew(&mut self, scene: &Scene, ground: &Ground) {
        self.teams.forget_addresses();
        let mut old = std::mem::take(&mut self.all).into_iter().peekable();
        self.all.reserve(scene.running.len());
        for (key, running) in &scene.running {
            while old.next_if(|one| one.key < *key).is_some() {}
            let same = |one: &Kept| one.key == *key && Arc::ptr_eq(&one.running, running);
            let one = match old.next_if(same) {
                Some(one) => one,
                None => self.made(*key, running, ground),
            };
            self.all.push(one);
        }
    }

    fn made(&mut self, key: (JobId, Epoch), running: &Arc<Running>, ground: &Ground) -> Kept {
        let parts = runs::parts(&ground.nodes, &running.seats);
        let charges = runs::charges(&parts, &running.ask, &ground.grid, &ground.kinds);
        Kept {
            key,
            running: running.clone(),
            team: self.teams.number(&running.team),
            parts: Arc::new(parts),
            charges: Arc::new(charges),
        }
    }
}
