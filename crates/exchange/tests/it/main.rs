//! Integration tests: identities of every family, groups of threads, state, and the choice of levels.

mod allocation;
mod group;
mod hostile;
mod identities;
mod loop_object;
mod reference;
mod support;
mod tables;
