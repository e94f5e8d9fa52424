//! Faults drawn from the seed: crashes, power cuts, cut links, pauses, bursts of loss; and the calm at the end.
//! Does NOT break what the product does not promise to survive: disks keep what was synced.

use super::world::{COORDINATORS, Event, World};

impl World {
    /// The next fault, and the one after it.
    pub(super) fn on_fault(&mut self) {
        if self.calm {
            return;
        }
        match self.dice.roll(41) {
            0..=6 => self.fault_coordinator(),
            7..=12 => {
                let who = self.dice.place(self.nodes.len());
                self.counts.crashes += 1;
                self.crash_agent(who, false);
                let delay = self.dice.between(100, 5_000);
                self.after(delay, Event::BootAgent(who));
            }
            13..=15 => {
                let who = self.dice.place(self.nodes.len());
                self.counts.crashes += 1;
                self.cut_power(who);
                let delay = self.dice.between(500, 9_000);
                self.after(delay, Event::BootAgent(who));
            }
            16..=18 => {
                let who = self.dice.place(self.nodes.len());
                self.counts.crashes += 1;
                self.kill_keeper(who);
            }
            19..=29 => self.fault_link(),
            30..=36 => self.fault_pause(),
            37..=39 => {
                self.loss = self.dice.between(10, 50);
                let delay = self.dice.between(1_000, 6_000);
                self.after(delay, Event::Quieter);
            }
            _ => self.fault_everything(),
        }
        let delay = self.dice.between(300, 9_000);
        self.after(delay, Event::Fault);
    }

    fn fault_coordinator(&mut self) {
        // Half of the time whoever leads.
        let leads = |world: &Self, who: &usize| world.leader_known_to(*who) == Some(*who);
        let leader = (0..COORDINATORS).find(|who| leads(self, who));
        let any = self.dice.place(COORDINATORS);
        let who = leader.filter(|_| self.dice.chance(50)).unwrap_or(any);
        self.counts.crashes += 1;
        let power = self.dice.chance(40);
        self.crash_coordinator(who, power);
        let delay = self.dice.between(20, 8_000);
        self.after(delay, Event::BootCoordinator(who));
    }

    fn fault_link(&mut self) {
        let ends = self.cut_until.len();
        let (one, other) = (self.dice.place(ends), self.dice.place(ends));
        let until = self.now + self.dice.between(200, 10_000);
        let both = self.dice.chance(60);
        let alone = self.dice.chance(40);
        self.counts.cuts += 1;
        for end in 0..ends {
            if end != one && (alone || end == other) {
                self.cut_until[one][end] = until;
                if both {
                    self.cut_until[end][one] = until;
                }
            }
        }
    }

    fn fault_pause(&mut self) {
        self.counts.pauses += 1;
        let until = self.now + self.dice.between(100, 7_000);
        let who = self.dice.place(self.nodes.len());
        match self.dice.roll(3) {
            0 => {
                let who = self.dice.place(COORDINATORS);
                self.coordinators[who].paused_until = until;
            }
            1 => self.nodes[who].paused_until = until,
            _ => self.nodes[who].frozen_until = until,
        }
    }

    /// The lights go out in the whole house.
    fn fault_everything(&mut self) {
        self.counts.power_cuts += 1;
        for who in 0..COORDINATORS {
            self.crash_coordinator(who, true);
            let delay = self.dice.between(100, 3_000);
            self.after(delay, Event::BootCoordinator(who));
        }
        for who in 0..self.nodes.len() {
            self.cut_power(who);
            let delay = self.dice.between(100, 3_000);
            self.after(delay, Event::BootAgent(who));
        }
    }

    /// Everything heals: from now on nothing breaks. Who sleeps wakes up when it would have: what it was sent lies there until then.
    pub(super) fn heal(&mut self) {
        self.calm = true;
        self.loss = 0;
        let now = self.now;
        for row in &mut self.cut_until {
            row.iter_mut().for_each(|until| *until = (*until).min(now));
        }
        (0..COORDINATORS).for_each(|who| self.after(1, Event::BootCoordinator(who)));
        (0..self.nodes.len()).for_each(|who| self.after(1, Event::BootAgent(who)));
    }
}
