//! Peers to measure against, each on this machine, with its data on the same disk, synced. What is not installed is said, never skipped in silence.
//! Does NOT measure: the benches do, side by side with ours.

mod etcd;

pub use etcd::{Etcd, EtcdClient};
