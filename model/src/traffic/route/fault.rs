//! Faults that are put in on purpose (Envoy `HTTPFault`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::condition::falls_in;
use super::{Asked, HeaderMatch};

/// What is done to some of a route's requests. Whether a request is one of them is thrown for the
/// delay and for the answer apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Only requests that are so.
    pub headers: Vec<HeaderMatch>,
    /// They wait for so long; and of how many, in millionths.
    pub delay: Option<(Duration, u32)>,
    /// They are answered with this; and of how many, in millionths.
    pub abort: Option<(Abort, u32)>,
}

/// How a request is answered in place of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Abort {
    /// With this status of HTTP, 200 to 599.
    Http(u16),
    /// With this status of gRPC, 0 to 16.
    Grpc(u8),
}

impl Fault {
    /// The delay and the answer of a request, by two numbers that have nothing to do with each
    /// other.
    pub fn of(&self, asked: &impl Asked, random: (u64, u64)) -> (Option<Duration>, Option<Abort>) {
        if !self.headers.iter().all(|header| header.holds(asked)) {
            return (None, None);
        }
        let delay = self.delay.filter(|(_, part)| falls_in(*part, random.0));
        let abort = self.abort.filter(|(_, part)| falls_in(*part, random.1));
        (delay.map(|(time, _)| time), abort.map(|(abort, _)| abort))
    }
}
