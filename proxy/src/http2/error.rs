//! What can go wrong with a connection or a stream, and the codes both sides say it with.

use std::fmt;
use std::io;

use thiserror::Error;

/// An error code (RFC 9113 §7).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Code(pub(crate) u32);

impl Code {
    pub(crate) const NO_ERROR: Self = Self(0);
    pub(crate) const PROTOCOL_ERROR: Self = Self(1);
    pub(crate) const FLOW_CONTROL_ERROR: Self = Self(3);
    pub(crate) const STREAM_CLOSED: Self = Self(5);
    pub(crate) const FRAME_SIZE_ERROR: Self = Self(6);
    pub(crate) const REFUSED_STREAM: Self = Self(7);
    pub(crate) const CANCEL: Self = Self(8);
    pub(crate) const COMPRESSION_ERROR: Self = Self(9);
    pub(crate) const ENHANCE_YOUR_CALM: Self = Self(11);

    const NAMES: [&'static str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {:#x}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Error {
    #[error("connection failed: {0}")]
    Io(io::ErrorKind),
    /// Found by us; the code is what the peer was told.
    #[error("peer broke the protocol, {code}: {reason}")]
    Protocol { code: Code, reason: &'static str },
    /// Found by the peer.
    #[error("peer ended the connection: {0}")]
    GoAway(Code),
    #[error("peer answered no ping in time")]
    PingTimeout,
    #[error("peer took no output in time")]
    WriteTimeout,
    #[error("peer did not finish its greeting or a head in time")]
    ReadTimeout,
    #[error("connection is closed")]
    Closed,
    /// No stream can be opened now; see `Client::poll_ready`.
    #[error("no room for another stream")]
    NoRoom,
}

impl Error {
    /// Ended by one of the defences against abuse (RFC 9113 §10.5).
    pub(crate) fn is_abuse(&self) -> bool {
        matches!(self, Self::Protocol { code: Code::ENHANCE_YOUR_CALM, .. })
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}

/// Why a stream ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum StreamError {
    /// By the peer, or by us for the peer's mistake.
    #[error("stream was reset: {0}")]
    Reset(Code),
    /// Surely not processed: it may be sent again elsewhere (RFC 9113 §8.7).
    #[error("stream was refused")]
    Refused,
    /// Above the last stream of the peer's GOAWAY: surely not processed.
    #[error("stream was not processed: peer is going away")]
    GoneAway,
    #[error("stream ended with its connection: {0}")]
    Connection(Error),
    /// Its sender has ended it already.
    #[error("stream was ended by its sender")]
    Ended,
}

impl StreamError {
    /// The code to tell someone else.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Reset(code) => *code,
            Self::Refused | Self::GoneAway => Code::REFUSED_STREAM,
            Self::Connection(_) => Code::CANCEL,
            Self::Ended => Code::STREAM_CLOSED,
        }
    }
}

/// What a frame did wrong (RFC 9113 §5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection ends.
    Connection(Code, &'static str),
    /// Only that stream ends.
    Stream(u32, Code),
}

/// The connection ends with PROTOCOL_ERROR.
pub(super) fn protocol(reason: &'static str) -> Fault {
    Fault::Connection(Code::PROTOCOL_ERROR, reason)
}

/// The connection ends with FRAME_SIZE_ERROR.
pub(super) fn frame_size(reason: &'static str) -> Fault {
    Fault::Connection(Code::FRAME_SIZE_ERROR, reason)
}
