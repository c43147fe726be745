//! One question to one upstream over what it speaks, with TCP behind UDP.

use tokio::time::Instant;

use super::ExchangeError;
use super::https::Https;
use super::stream::Streams;
use super::udp::{Seen, Sockets};
use super::upstream::outgoing;
use crate::answer::{Answer, Unusable};
use crate::cache::CacheKey;

/// What an upstream is asked over.
#[derive(Debug)]
pub(super) enum Transports {
    /// UDP, and TCP for what does not fit or looks forged.
    Udp(Sockets, Streams),
    /// TCP or TLS.
    Stream(Streams),
    /// HTTP/2.
    Https(Https),
}

/// Asks; what looks forged is told to `forged`, by reason and number.
pub(super) async fn run(
    transports: &Transports,
    key: &CacheKey,
    deadline: Instant,
    forged: impl Fn(&'static str, u32),
) -> Result<Answer, ExchangeError> {
    match transports {
        Transports::Https(https) => https.exchange(&outgoing(key, false), deadline).await,
        Transports::Stream(streams) => streams.exchange(&outgoing(key, false), deadline).await,
        Transports::Udp(sockets, streams) => {
            let mut seen = Seen::default();
            let result = sockets.exchange(&outgoing(key, true), deadline, &mut seen).await;
            if seen.forgeries > 0 {
                forged(if seen.other_case { "case" } else { "mismatch" }, seen.forgeries);
            }
            match result {
                // RFC 7766 §5; and where somebody guesses, TCP shows who answers.
                Err(ExchangeError::Unusable(
                    Unusable::Truncated
                    | Unusable::Question
                    | Unusable::NotOurs
                    | Unusable::Malformed,
                )) => streams.exchange(&outgoing(key, false), deadline).await,
                other => other,
            }
        }
    }
}
