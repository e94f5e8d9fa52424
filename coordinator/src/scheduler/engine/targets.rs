//! What a job may be given, in its order of preference: one flavor at a time, so that its quota can be asked before a place is sought (docs/SCHEDULING.md, Requests). Does NOT look at
//! what is free.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::kinds::Kinds;
use crate::state::view::ask::{Ask, Gpus, Kind, Prefer};

/// One type of the list, in one flavor.
#[derive(Debug, Clone)]
pub struct Target {
    /// The ask, narrowed to it.
    pub ask: Arc<Ask>,
    /// What it is charged for; `None`: no GPUs, or a mix of types whose charges are known once a place is found.
    pub flavor: Option<u32>,
    /// The kinds of devices that serve it: each is a queue of its own for reservations.
    pub kinds: Vec<u16>,
}

/// Equal asks, once.
#[derive(Debug, Clone)]
pub struct AskClass {
    /// The ask.
    pub ask: Arc<Ask>,
    /// Places in [`Asks::targets`], in order of preference.
    pub targets: std::ops::Range<usize>,
    /// Those within nominal are tried first.
    pub nominal_first: bool,
}

/// All asks of a pass.
#[derive(Debug, Default)]
pub struct Asks {
    /// By number.
    pub classes: Vec<AskClass>,
    /// By number.
    pub targets: Vec<Target>,
    /// Targets for several tasks of an array at once.
    pub scaled: BTreeMap<(usize, u32), usize>,
    // Addresses are only looked up: what is found never depends on their order.
    by_address: BTreeMap<usize, u32>,
    by_value: BTreeMap<Arc<Ask>, u32>,
}

impl Asks {
    /// What stood at an address may be gone, and another ask be there from now on.
    pub fn forget_addresses(&mut self) {
        self.by_address.clear();
    }

    /// The number of an ask. It has to outlive the next call of [`Self::forget_addresses`].
    pub fn number(&mut self, ask: &Arc<Ask>, kinds: &Kinds) -> u32 {
        let address = Arc::as_ptr(ask) as usize;
        if let Some(known) = self.by_address.get(&address) {
            return *known;
        }
        let number = self.number_of(ask, kinds);
        self.by_address.insert(address, number);
        number
    }

    /// The same for an ask that is not the scene's, whose address may be another's later.
    pub fn number_of(&mut self, ask: &Arc<Ask>, kinds: &Kinds) -> u32 {
        if let Some(known) = self.by_value.get(ask) {
            return *known;
        }
        let number = u32::try_from(self.classes.len()).unwrap_or(u32::MAX);
        let first = self.targets.len();
        self.targets.extend(targets(ask, kinds));
        self.classes.push(AskClass {
            ask: ask.clone(),
            targets: first..self.targets.len(),
            nominal_first: ask.prefer == Prefer::Nominal || ask.kinds.is_empty(),
        });
        self.by_value.insert(ask.clone(), number);
        number
    }
}

/// The targets of an ask; none: no node has such devices.
fn targets(ask: &Arc<Ask>, kinds: &Kinds) -> Vec<Target> {
    let serving: Vec<u16> = (0..kinds.kinds.len())
        .filter_map(|at| u16::try_from(at).ok())
        .filter(|at| kinds.serves(*at, ask))
        .collect();
    if ask.gpus == Gpus::None {
        return vec![Target {
            ask: ask.clone(),
            flavor: None,
            kinds: Vec::new(),
        }];
    }
    if ask.mix {
        let whole = Target {
            ask: ask.clone(),
            flavor: None,
            kinds: serving,
        };
        return if whole.kinds.is_empty() {
            Vec::new()
        } else {
            vec![whole]
        };
    }
    let any = [Kind {
        name: String::new(),
        memory: 0,
    }];
    let wanted: &[Kind] = if ask.kinds.is_empty() {
        &any
    } else {
        &ask.kinds
    };
    let mut found = Vec::new();
    for want in wanted {
        let of_type = serving.iter().copied().filter(|at| {
            let kind = &kinds.kinds[usize::from(*at)];
            kind.model.contains(&want.name) && kind.memory >= want.memory
        });
        found.extend(by_flavor(ask, want, of_type.collect(), kinds));
    }
    found
}

/// The kinds of one type, one target per flavor, the preferred pools first.
fn by_flavor(ask: &Arc<Ask>, want: &Kind, mut of_type: Vec<u16>, kinds: &Kinds) -> Vec<Target> {
    let place = |at: u16| {
        let pool = &kinds.kinds[usize::from(at)].pool;
        ask.pools
            .iter()
            .position(|one| **one == **pool)
            .unwrap_or(0)
    };
    of_type.sort_by_key(|at| (place(*at), *at));
    let flavor = |at: &u16| kinds.kinds[usize::from(*at)].flavor;
    let mut flavors: Vec<u32> = Vec::new();
    for at in &of_type {
        if !flavors.contains(&flavor(at)) {
            flavors.push(flavor(at));
        }
    }
    let alone = flavors.len() == 1;
    flavors
        .iter()
        .map(|one| {
            let mine: Vec<u16> = of_type
                .iter()
                .copied()
                .filter(|at| flavor(at) == *one)
                .collect();
            let whole = alone && ask.kinds.len() <= 1;
            let ask = if whole {
                ask.clone()
            } else {
                narrowed(ask, want, &mine, alone, kinds)
            };
            Target {
                ask,
                flavor: Some(*one),
                kinds: mine,
            }
        })
        .collect()
}

/// The ask, for these kinds alone.
fn narrowed(ask: &Arc<Ask>, want: &Kind, mine: &[u16], alone: bool, kinds: &Kinds) -> Arc<Ask> {
    let mut one = Ask::clone(ask);
    one.kinds = if want.name.is_empty() && want.memory == 0 {
        Vec::new()
    } else {
        vec![want.clone()]
    };
    if !alone {
        let mut models: Vec<&Arc<str>> = mine
            .iter()
            .map(|at| &kinds.kinds[usize::from(*at)].model)
            .collect();
        models.dedup();
        one.kinds = models
            .iter()
            .map(|model| Kind {
                name: model.to_string(),
                memory: want.memory,
            })
            .collect();
        one.pools.clear();
        for at in mine {
            let pool = &kinds.kinds[usize::from(*at)].pool;
            if !one.pools.iter().any(|known| **known == **pool) {
                one.pools.push(pool.to_string());
            }
        }
    }
    Arc::new(one)
}
