//! Where messages of the services and records of the state meet. Nothing is decided here.
pub mod agent;
mod array;
pub mod copies;
pub mod decision;
pub mod job;
pub mod node;
pub mod team;
pub mod why;
