//! What a connection is run with.

use std::time::Duration;

/// How often something costly may be asked for: a store of tokens that fills with time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Tokens at the beginning and at most.
    pub(crate) burst: u32,
    pub(crate) per_sec: u32,
}

/// Limits against abuse (RFC 9113 §10.5). What exceeds one ends the connection with
/// ENHANCE_YOUR_CALM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Streams reset by the peer soon after they began, or by us for the peer's mistake
    /// (CVE-2023-44487). Each stream that ends well gives one back.
    pub(crate) resets: Rate,
    /// SETTINGS frames.
    pub(crate) settings: Rate,
    /// DATA frames that neither hold data nor end a stream.
    pub(crate) empty_data: Rate,
    /// DATA frames of ours cut to less than 256 bytes by the window the peer gives a stream.
    pub(crate) tiny_windows: Rate,
    /// Answers (to PING, SETTINGS, refused streams) that wait for the peer to read.
    pub(crate) unread_replies: u32,
    /// CONTINUATION frames of one head (CVE-2024-27983).
    pub(crate) continuations: u32,
}

/// What a connection of either role is run with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Streams the peer may have open (server), or we at most (client).
    pub(crate) max_concurrent_streams: u32,
    /// Bytes the peer may send ahead of what was released, for each stream.
    pub(crate) stream_window: u32,
    /// The same for all streams together.
    pub(crate) connection_window: u32,
    /// Bytes of a head, counted as RFC 9113 §6.5.2 does.
    pub(crate) max_header_list: u32,
    /// Bytes of the table for the heads we get; 4096 is what every peer knows.
    pub(crate) header_table: u32,
    /// Whether a server takes extended CONNECT (RFC 8441).
    pub(crate) connect_protocol: bool,
    /// Bytes waiting to be written above which streams are told to wait.
    pub(crate) output: usize,
    /// Ping after this long without input; end the connection this long after the ping.
    pub(crate) keepalive: Option<(Duration, Duration)>,
    /// End the connection when the peer takes nothing of what waits for this long, or leaves its
    /// greeting or a head unfinished. Noticed after at most twice this time.
    pub(crate) write_timeout: Duration,
    pub(crate) limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 256,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            max_header_list: 64 << 10,
            header_table: 4096,
            connect_protocol: true,
            output: 256 << 10,
            keepalive: None,
            write_timeout: Duration::from_secs(30),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            resets: Rate { burst: 500, per_sec: 100 },
            settings: Rate { burst: 100, per_sec: 10 },
            empty_data: Rate { burst: 1000, per_sec: 100 },
            tiny_windows: Rate { burst: 2000, per_sec: 200 },
            unread_replies: 1000,
            continuations: 32,
        }
    }
}
