//! `mlctl demo`: a cluster, a real training and a node that dies in the middle.

pub mod trainer;
