//! The program from outside: what it prints, how it ends, what it leaves behind.

mod branches;
mod contract;
mod docs;
mod real_data;
mod report;
mod resume;
mod run;
