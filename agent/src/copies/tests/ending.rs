//! What is saved while an attempt is being ended leaves at once, whatever the job says of its copies.
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_saved_at_the_end_is_not_paced() {
    let place = Place::new();
    let (a, b) = (place.node("a").await, place.node("b").await);
    a.write("step-5", "w", &noise(1, 3 << 20));
    let key = a.seal(&place, "step-5", 0).await;
    // At a byte a second it would be there in a month.
    let order = Replicate {
        key: key.clone(),
        to: b.holder(),
        urgent: false,
        rate: Some(1),
    };
    // No process has this id: nobody is looked at.
    let here = a.vault.attempt_here((JOB, EPOCH), u32::MAX);
    assert!(!a.vault.is_urgent(&order));
    here.ends();
    assert!(a.vault.is_urgent(&order));
    a.vault.replicate(order);
    b.held(&key).await;
    assert_eq!(a.pushed().await.error, "");
}
