//! Looks at dirty devices until nothing is on them.
//! Does NOT decide what follows: that is `core`.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::dirt::Devices;
use crate::core::Event;

/// Between two looks at what is dirty.
const PERIOD: Duration = Duration::from_secs(1);

/// Tells what it sees, until nobody names dirty devices any more: the agent ends.
pub(crate) async fn look<Told: Future<Output = ()>>(
    devices: Arc<Devices>,
    mut dirty: watch::Receiver<BTreeSet<String>>,
    tell: impl Fn(Event) -> Told,
) {
    while dirty.wait_for(|dirty| !dirty.is_empty()).await.is_ok() {
        sleep(PERIOD).await;
        let asked: Vec<String> = dirty.borrow().iter().cloned().collect();
        let still = devices.dirt(&asked).await;
        let on = |uuid: &String| still.iter().any(|device| device.uuid == *uuid);
        let clean: Vec<String> = asked.into_iter().filter(|uuid| !on(uuid)).collect();
        if !clean.is_empty() {
            tell(Event::DevicesSeen {
                dirty: Vec::new(),
                clean,
            })
            .await;
        }
    }
}
