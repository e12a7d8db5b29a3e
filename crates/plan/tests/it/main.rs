//! Integration tests of the planner: the solver against brute force, plan files, and hostile input.

mod hostile;
mod messages;
mod oracle;
mod properties;
mod speed;
mod support;
