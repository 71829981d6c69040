//! The compatibility between releases of the protocol.

mod conformance;
mod negotiation;
mod sample;
