//! What releases of the protocol promise each other.

mod conformance;
mod negotiation;
mod sample;
