//! The members of the cluster by name: what Raft knows by id, the configuration knows by name and address.
//!
//! It does not keep who votes: that stands in the log. `roster` brings ids and names together, `admit` lets a member in,
//! `follow` keeps this process's picture of the others and completes re-joins, `rejoin` is the way back in.
pub mod admit;
pub mod follow;
pub mod rejoin;
pub mod roster;
