//! Everything that checks mlctl across its crates: the simulator, the checkers, the real processes, the conventions.
//! Does NOT hold a test itself: the tests are in `tests/tests`, and the crates' own tests lie beside what they test.

#![forbid(unsafe_code)]

pub mod bench;
pub mod budget;
pub mod checkers;
pub mod fuzz;
#[path = "../benches/peers/mod.rs"]
pub mod peers;
pub mod process;
pub mod sim;
pub mod simulate;
pub mod tidy;
