//! One upstream: its sockets and connections, how it does, and what it is asked over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::exchange::{self, Transports};
use super::https::Https;
use super::stream::{Dial, Streams};
use super::udp::Sockets;
use super::{ExchangeError, Outgoing};
use crate::answer::Answer;
use crate::cache::CacheKey;
use crate::config::Proto;
use crate::metrics::ForwardMetrics;

/// Failures in a row after which an upstream counts as down.
const FAILURES: u32 = 2;
/// Bounds on how long one try may take, when there are others to try.
const TRY: (Duration, Duration) = (Duration::from_millis(400), Duration::from_millis(1000));

/// What all upstreams share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) metrics: ForwardMetrics,
    pub(super) max_idle: usize,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// One upstream.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) proto: Proto,
    pub(super) address: SocketAddr,
    /// `proto://address`, as logs and metrics name it.
    pub(super) label: Arc<str>,
    transports: Transports,
    metrics: ForwardMetrics,
    failures: AtomicU32,
    down: AtomicBool,
    looping: AtomicBool,
    /// Smoothed time of an exchange in microseconds; 0: none yet.
    smoothed_us: AtomicU64,
}

impl Upstream {
    pub(super) fn new(proto: &Proto, address: SocketAddr, shared: &Shared) -> Self {
        let label = format!("{proto}://{address}");
        let server = |name: &Option<Arc<str>>| {
            let given = name.as_ref().and_then(|n| ServerName::try_from(n.to_string()).ok());
            given.unwrap_or_else(|| ServerName::from(address.ip()))
        };
        let tls =
            |name: &Option<Arc<str>>| shared.tls.as_ref().map(|config| (config, server(name)));
        let streams = |dial| Streams::new(dial, shared.max_idle);
        let plain = || Dial::new(address, None, b"");
        let transports = match proto {
            Proto::Udp => Transports::Udp(Sockets::new(address, shared.max_idle), streams(plain())),
            Proto::Tcp => Transports::Stream(streams(plain())),
            Proto::Tls { name } => {
                Transports::Stream(streams(Dial::new(address, tls(name), b"dot")))
            }
            Proto::Https { name, path } => {
                let host = name.as_deref().map_or_else(|| address.to_string(), str::to_owned);
                let uri = http::Uri::builder()
                    .scheme("https")
                    .authority(host)
                    .path_and_query(&**path)
                    .build()
                    .unwrap_or_default();
                let dial = Dial::new(address, tls(name), b"h2");
                let (tasks, stop) = (shared.tasks.clone(), shared.stop.clone());
                Transports::Https(Https::new(dial, uri, tasks, stop))
            }
        };
        Self {
            proto: proto.clone(),
            address,
            label: label.into(),
            transports,
            metrics: shared.metrics.clone(),
            failures: AtomicU32::new(0),
            down: AtomicBool::new(false),
            looping: AtomicBool::new(false),
            smoothed_us: AtomicU64::new(0),
        }
    }

    /// Asks it, and notes how it did.
    pub(super) async fn exchange(
        &self,
        key: &CacheKey,
        deadline: Instant,
    ) -> Result<Answer, ExchangeError> {
        let began = Instant::now();
        let result = exchange::run(&self.transports, key, deadline, |reason, count| {
            self.metrics.bad_responses(&self.label, reason, count);
        })
        .await;
        let took = began.elapsed();
        match &result {
            Ok(answer) => {
                self.metrics.exchanged(&self.label, answer.rcode, took);
                self.smooth(took);
                self.note(true);
            }
            Err(error) => {
                self.metrics.failed(&self.label);
                tracing::debug!(upstream = %self.label, %error, "an exchange failed");
                self.note(false);
            }
        }
        result
    }

    /// Asks it something that any name server answers, to see whether it does.
    pub(super) async fn probe(&self, deadline: Instant) {
        // The name servers of the root.
        let key = CacheKey::new(&[0], crate::records::rtype::NS, false, false);
        if self.exchange(&key, deadline).await.is_err() {
            self.metrics.health_failed(&self.label);
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    pub(super) fn is_looping(&self) -> bool {
        self.looping.load(Ordering::Relaxed)
    }

    /// Notes whether what it is sent comes back to this server.
    pub(super) fn note_loop(&self, looping: bool) {
        if self.looping.swap(looping, Ordering::Relaxed) != looping {
            self.metrics.looping(&self.label, looping);
            if looping {
                tracing::error!(
                    upstream = %self.label,
                    "what is forwarded to this upstream comes back to this server; it is not used"
                );
            } else {
                tracing::info!(upstream = %self.label, "the forwarding loop is gone");
            }
        }
    }

    /// How long one try is given while there are others.
    pub(super) fn patience(&self) -> Duration {
        let smoothed = Duration::from_micros(self.smoothed_us.load(Ordering::Relaxed));
        if smoothed.is_zero() { TRY.1 } else { (smoothed * 4).clamp(TRY.0, TRY.1) }
    }

    /// How it does, in words.
    pub(super) fn describe(&self) -> String {
        let state = match (self.is_looping(), self.is_down()) {
            (true, _) => "looping, not used",
            (false, true) => "down",
            (false, false) => "up",
        };
        let smoothed = self.smoothed_us.load(Ordering::Relaxed);
        if smoothed == 0 {
            return format!("{} ({state})", self.label);
        }
        format!("{} ({state}, answers in {} us)", self.label, smoothed)
    }

    fn smooth(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let old = self.smoothed_us.load(Ordering::Relaxed);
        // Two at once may lose one of them; it is an estimate.
        let new = if old == 0 { took } else { (old.saturating_mul(7).saturating_add(took)) / 8 };
        self.smoothed_us.store(new.max(1), Ordering::Relaxed);
    }

    fn note(&self, good: bool) {
        if good {
            self.failures.store(0, Ordering::Relaxed);
            if self.down.swap(false, Ordering::Relaxed) {
                self.metrics.down(&self.label, false);
                tracing::info!(upstream = %self.label, "the upstream answers again");
            }
        } else if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES
            && !self.down.swap(true, Ordering::Relaxed)
        {
            self.metrics.down(&self.label, true);
            tracing::warn!(upstream = %self.label, "the upstream does not answer");
        }
    }

    /// Its question as it would be sent, for a loop probe.
    pub(super) async fn send_probe(&self, key: &CacheKey, deadline: Instant) {
        let _whatever_comes = exchange::run(&self.transports, key, deadline, |_, _| {}).await;
    }
}

/// The question over a transport that may be spoofed, or over one that may not.
pub(super) fn outgoing(key: &CacheKey, spoofable: bool) -> Outgoing {
    if spoofable { Outgoing::in_random_case(key) } else { Outgoing::plain(key) }
}
