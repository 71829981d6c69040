//! Limits the traffic that an interface sends: a token bucket, see tc-tbf(8).

use super::message::Messages;

const RTM_NEWQDISC: u16 = 36;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_REPLACE: u16 = 0x100;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `TC_LINKLAYER_ETHERNET`.
const ETHERNET: u8 = 1;

/// The size of a burst: a twentieth of a second, and at least two of the largest packets.
const BURSTS: u64 = 20;
const LEAST_BURST: u64 = 128 << 10;
const MOST_BURST: u64 = 256 << 20;

/// Adds the message that limits the traffic that the interface sends, in bits per second.
pub(in crate::network) fn limit_rate(messages: &mut Messages, index: u32, bits: u64) {
    let rate = bits / 8;
    let burst = (rate / BURSTS).clamp(LEAST_BURST, MOST_BURST);
    let burst = u32::try_from(burst).unwrap_or(u32::MAX);
    let mut tcmsg = [0; 20];
    tcmsg[4..8].copy_from_slice(&index.to_ne_bytes());
    tcmsg[12..16].copy_from_slice(&TC_H_ROOT.to_ne_bytes());
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let message = messages.request("limit the bandwidth", RTM_NEWQDISC, flags, &tcmsg);
    message.attr_str(TCA_KIND, "tbf").nest(TCA_OPTIONS, |m| {
        m.attr(TCA_TBF_PARMS, &parameters(rate, burst)).attr_u32(TCA_TBF_BURST, burst);
        if u32::try_from(rate).is_err() {
            m.attr(TCA_TBF_RATE64, &rate.to_ne_bytes());
        }
    });
}

/// `struct tc_tbf_qopt`: a rate, no peak rate, and the queue length at which packets are dropped.
fn parameters(rate: u64, burst: u32) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[1] = ETHERNET;
    bytes[8..12].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    bytes[24..28].copy_from_slice(&burst.saturating_mul(2).to_ne_bytes());
    bytes
}
