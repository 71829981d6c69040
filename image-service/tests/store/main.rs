//! The store and its unpacker from outside: archives in, trees out.
#![allow(clippy::unwrap_used, reason = "what goes wrong in a test's own steps fails the test")]

mod archive;
mod attributes;
mod broken_archives;
mod damage;
mod damage_list;
mod disk_full;
mod equality;
mod exchange;
mod fixture;
mod gnu_tar;
mod hostile;
mod lifecycle;
mod limits;
mod load;
mod names;
mod restart;
mod rpc;
mod tree;
mod whiteouts;
