//! The inequality on worked examples, and against a slow oracle that adds everything up.
use super::*;

fn flavor() -> Flavor {
    Flavor {
        kind: "h100".into(),
        pool: None,
    }
}

fn team(name: &str, quota: Option<(u64, Limit, Limit)>, own: u64) -> TeamView {
    let quota = quota.map(|(nominal, borrow, lend)| Quota {
        nominal,
        borrow,
        lend,
    });
    TeamView {
        name: name.into(),
        weight: 1,
        quotas: quota.map(|quota| (flavor(), quota)).into_iter().collect(),
        own: BTreeMap::from([(flavor(), own)]),
        usage: 0,
        users: BTreeMap::new(),
        budgets: BTreeMap::new(),
        max_running: None,
    }
}

const ALL: Limit = Limit::Unlimited;

fn units(count: u64) -> Limit {
    Limit::Units(count)
}

#[test]
fn an_idle_siblings_share_is_borrowed_up_to_the_limit() {
    let teams = [
        team("acme", Some((64, units(0), ALL)), 0),
        team("acme/nlp", Some((16, units(0), ALL)), 0),
        team("acme/vision", Some((48, units(8), ALL)), 40),
    ];
    let ledger = Ledger::new(teams.iter());
    assert!(ledger.legal("acme/vision", &flavor(), 16).is_ok());
    assert!(ledger.inside_nominal("acme/vision", &flavor(), 8));
    assert!(!ledger.inside_nominal("acme/vision", &flavor(), 9));
    let short = ledger
        .legal("acme/vision", &flavor(), 17)
        .expect_err("over");
    assert_eq!(
        (&*short.team, short.load, short.adds),
        ("acme/vision", 40, 17)
    );
}

#[test]
fn what_is_not_lent_is_nobodys() {
    let teams = [
        team("acme", Some((64, units(0), ALL)), 0),
        team("acme/nlp", Some((16, units(0), units(4))), 0),
        team("acme/vision", Some((48, ALL, ALL)), 48),
    ];
    let mut ledger = Ledger::new(teams.iter());
    assert_eq!(
        ledger.load("acme", &flavor()),
        60,
        "nlp claims the 12 that it does not lend"
    );
    assert!(ledger.legal("acme/vision", &flavor(), 4).is_ok());
    let short = ledger
        .legal("acme/vision", &flavor(), 5)
        .expect_err("nlp's");
    assert_eq!((&*short.team, short.borrow), ("acme", units(0)));
    // Its own use of what it kept costs the parent nothing more.
    assert!(ledger.legal("acme/nlp", &flavor(), 16).is_ok());
    ledger.add("acme/nlp", &flavor(), 10);
    assert_eq!(ledger.load("acme", &flavor()), 60);
    ledger.add("acme/nlp", &flavor(), 6);
    assert_eq!(ledger.load("acme", &flavor()), 64);
    ledger.remove("acme/nlp", &flavor(), 16);
    assert_eq!(ledger.load("acme", &flavor()), 60);
}

#[test]
fn what_no_quota_names_is_free_and_a_parent_without_a_word_passes_on() {
    let teams = [
        team("free", None, 1_000),
        team("org", None, 0),
        team("org/a", Some((10, ALL, ALL)), 0),
        team("org/b", Some((6, ALL, ALL)), 0),
        team("org/c", None, 0),
    ];
    let ledger = Ledger::new(teams.iter());
    assert!(ledger.legal("free", &flavor(), 1 << 40).is_ok());
    assert!(ledger.legal("org/a", &flavor(), 16).is_ok());
    assert!(ledger.legal("org/a", &flavor(), 17).is_err());
    assert!(
        ledger.legal("org/c", &flavor(), 1).is_err(),
        "it has nothing, and may borrow nothing"
    );
    let other = Flavor {
        kind: "a100".into(),
        pool: None,
    };
    assert!(ledger.legal("org/c", &other, 1).is_ok());
}
