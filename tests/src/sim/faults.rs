//! Faults drawn from the seed: crashes, power cuts, cut links, pauses, bursts of loss; and the calm at the end.
//! Does NOT break what the product does not promise to survive: disks keep what was synced.

use super::coordinator::Coordinator;
use super::marks::Mark;
use super::world::{COORDINATORS, Event, Weather, World};

/// The furthest that a wall clock is set, milliseconds.
const JUMP_MS: u64 = 3_600_000;
/// Of so many calms in a hundred one node sees nothing for so long, milliseconds: long enough to be given up in any of them.
const AWAY_CHANCE: u64 = 30;
const AWAY_MS: u64 = 90_000;

impl World {
    /// The next fault, and the one after it.
    pub(super) fn on_fault(&mut self) {
        if self.weather != Weather::Storm {
            return;
        }
        match self.dice.roll(58) {
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
                self.counts.losses += 1;
                self.loss = self.dice.between(10, 50);
                let delay = self.dice.between(1_000, 6_000);
                self.after(delay, Event::Quieter);
            }
            40 => self.fault_everything(),
            41..=43 => self.fault_hand_over(),
            44..=46 => self.fault_clock(),
            47..=50 => self.fault_disk(),
            51..=54 => {
                self.counts.full_disks += 1;
                let who = self.dice.place(COORDINATORS);
                self.coordinators[who].low = true;
                let delay = self.dice.between(3_000, 30_000);
                self.after(delay, Event::RoomAgain(who));
            }
            55..=56 => {
                let who = self.dice.place(COORDINATORS);
                self.flip_in_memory(who);
            }
            _ => {
                let who = self.dice.place(self.nodes.len());
                self.counts.journals_lost += 1;
                self.cut_power(who);
                self.lose_journal(who);
                let delay = self.dice.between(500, 9_000);
                self.after(delay, Event::BootAgent(who));
            }
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

    /// Somebody wants the leader elsewhere.
    fn fault_hand_over(&mut self) {
        let leads = |world: &Self, who: &usize| world.leader_known_to(*who) == Some(*who);
        let Some(who) = (0..COORDINATORS).find(|who| leads(self, who)) else {
            return;
        };
        let to = (who + 1 + self.dice.place(COORDINATORS - 1)) % COORDINATORS;
        self.counts.hand_overs += 1;
        self.hand_over(who, to);
    }

    /// A wall clock is set: a little off, or very much.
    fn fault_clock(&mut self) {
        self.counts.clock_jumps += 1;
        let who = self.dice.place(COORDINATORS);
        let most = if self.dice.chance(50) { 2_000 } else { JUMP_MS };
        let skew = self.dice.between(0, 2 * most) as i64;
        self.coordinators[who].skew_ms = skew - most as i64;
    }

    /// A bit rots on one disk, and soon its machine reads it.
    fn fault_disk(&mut self) {
        let damaged = |one: &Coordinator| one.disk.is_damaged();
        if self.coordinators.iter().any(damaged) {
            return;
        }
        self.counts.bit_flips += 1;
        let who = self.dice.place(COORDINATORS);
        let (place, bit) = (self.dice.roll(1 << 20), self.dice.roll(1 << 20));
        let disk = &mut self.coordinators[who].disk;
        if place.is_multiple_of(3) {
            disk.rot_snapshot();
        } else {
            disk.rot_log(place, bit);
        }
        if self.dice.chance(70) {
            self.counts.crashes += 1;
            self.crash_coordinator(who, true);
            let delay = self.dice.between(20, 8_000);
            self.after(delay, Event::BootCoordinator(who));
        }
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
        let sleeper = match self.dice.roll(3) {
            0 => {
                let who = self.dice.place(COORDINATORS);
                &mut self.coordinators[who].paused_until
            }
            1 => &mut self.nodes[who].paused_until,
            _ => &mut self.nodes[who].frozen_until,
        };
        // Who sleeps already does not wake up earlier for it: what waits for it was put off until then.
        *sleeper = until.max(*sleeper);
    }

    /// The lights go out in the whole house.
    pub(super) fn fault_everything(&mut self) {
        self.counts.power_cuts += 1;
        self.marks.hit(Mark::WholePowerCut);
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

    /// Everything heals but perhaps one node, which stays off for a while: from now on nothing breaks. Who sleeps wakes up when it
    /// would have: what it was sent lies there until then.
    pub(super) fn heal(&mut self) {
        self.weather = Weather::Calm;
        self.coordinators.iter_mut().for_each(|one| one.low = false);
        self.loss = 0;
        let now = self.now;
        self.healed_at = now;
        for row in &mut self.cut_until {
            row.iter_mut().for_each(|until| *until = (*until).min(now));
        }
        (0..COORDINATORS).for_each(|who| self.after(1, Event::Repair(who)));
        if self.dice.chance(AWAY_CHANCE) {
            let who = self.dice.place(self.nodes.len());
            self.counts.away += 1;
            self.cut_power(who);
            self.nodes[who].away_until = now + AWAY_MS;
            self.after(AWAY_MS, Event::BootAgent(who));
        }
        (0..self.nodes.len()).for_each(|who| self.after(1, Event::BootAgent(who)));
    }
}
