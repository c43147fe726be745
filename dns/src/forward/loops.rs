//! Forwarding loops: a question nobody else can know goes to an upstream, and if it arrives here,
//! the upstream leads back to this server.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;

use super::upstream::Upstream;
use crate::cache::CacheKey;
use crate::name::WireName;

/// The second label of a probe's name, as on the wire.
const LABEL: &[u8] = b"\x0dportolan-loop";
/// The type asked for, which nobody asks for otherwise: HINFO.
const HINFO: u16 = 13;
/// How long a probe may take on its way round.
const WAIT: Duration = Duration::from_secs(2);

/// Probes under way.
#[derive(Debug, Default)]
pub(super) struct Probes {
    sent: DashMap<Box<[u8]>, bool>,
}

impl Probes {
    /// Sends a probe for a name in the zone that the upstream is asked for, and notes whether it came
    /// back. A server that answers for the zone itself, and leads elsewhere with other names, is
    /// no loop.
    pub(super) async fn probe(&self, zone: &WireName, upstream: &Arc<Upstream>) {
        let nonce = format!("{:016x}", rand::random::<u64>());
        let Some(name) = Self::name(zone, &nonce) else { return };
        self.sent.insert(name.as_bytes().into(), false);
        let key = CacheKey::new(name.as_bytes(), HINFO, false, false);
        upstream.send_probe(&key, Instant::now() + WAIT).await;
        let came_back = self.sent.remove(name.as_bytes()).is_some_and(|(_, seen)| seen);
        upstream.note_loop(came_back);
    }

    /// Whether a name is that of a probe of ours; it is noted.
    pub(super) fn came_back(&self, name: &[u8]) -> bool {
        // The second label tells, before any lock is taken.
        let first = name.first().map_or(0, |length| usize::from(*length));
        if !name.get(first + 1..).is_some_and(|rest| rest.starts_with(LABEL)) {
            return false;
        }
        let seen = self.sent.get_mut(name).map(|mut seen| *seen = true);
        seen.is_some()
    }

    /// `<nonce>.portolan-loop.<zone>`; `None` where the zone leaves no room.
    fn name(zone: &WireName, nonce: &str) -> Option<WireName> {
        zone.below([nonce.as_bytes(), &LABEL[1..]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_probe_that_was_sent_is_one_that_comes_back() {
        let probes = Probes::default();
        let name = Probes::name(&WireName::root(), "0123").expect("fits");
        assert!(!probes.came_back(name.as_bytes()), "somebody else's");
        probes.sent.insert(name.as_bytes().into(), false);
        assert!(!probes.came_back(b"\x03www\x00"));
        assert!(probes.came_back(name.as_bytes()));
        assert!(*probes.sent.get(name.as_bytes()).expect("sent"));
    }
}
