//! Rewrites on every family of the house.

mod families;
mod fixture;
mod identities;
