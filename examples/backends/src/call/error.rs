//! Why a call came to nothing, in words for whoever typed it.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use portolan_runtime::causes::chain;
use prost_reflect::DescriptorError;
use tonic::{Code, Status, TimeoutExpired};

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The target is not `host:port`.
    #[error("target {target:?}: {reason}")]
    Target {
        /// As given.
        target: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The authority is none.
    #[error("authority {authority:?}: {reason}")]
    Authority {
        /// As given.
        authority: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A metadata entry that cannot be sent.
    #[error("metadata {name:?}: {reason}")]
    Metadata {
        /// Its name, as given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The method is not of the form `package.Service/Method`.
    #[error("method {method:?} is not of the form package.Service/Method")]
    MethodSyntax {
        /// As given.
        method: String,
    },
    /// More, or larger, than this client handles.
    #[error("{what}: {found}, at most {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much is allowed.
        limit: usize,
    },
    /// No connection.
    #[error("cannot connect to {target}: {reason}")]
    Connect {
        /// Where to.
        target: String,
        /// What the system said.
        reason: String,
    },
    /// The server does not offer `grpc.reflection.v1`.
    #[error("the server offers no reflection (grpc.reflection.v1), so its methods are unknown")]
    NoReflection,
    /// The server's descriptions of its services make no sense.
    #[error("the server's reflection: {reason}")]
    Reflection {
        /// What is wrong.
        reason: String,
    },
    /// The server's descriptors do not fit together.
    #[error("the server's descriptors do not fit together: {0}")]
    Descriptors(#[from] DescriptorError),
    /// The server has no such service.
    #[error("unknown service {service:?}; the server has {}", .known.join(", "))]
    UnknownService {
        /// As asked for.
        service: String,
        /// The full names of those it has.
        known: Vec<String>,
    },
    /// The service has no such method.
    #[error("unknown method {method:?} of {service}; it has {}", .known.join(", "))]
    UnknownMethod {
        /// Full name of the service.
        service: String,
        /// As asked for.
        method: String,
        /// The names of those it has.
        known: Vec<String>,
    },
    /// The method takes one message.
    #[error("{method} takes one message, {found} were given")]
    MessageCount {
        /// Full name of the method.
        method: String,
        /// How many were given.
        found: usize,
    },
    /// A message is not the JSON of its type.
    #[error("message {number}{}: {reason}", .field.as_ref().map(|f| format!(", field {f}")).unwrap_or_default())]
    Json {
        /// Which of the messages, from 1.
        number: usize,
        /// Path of the field, such as `headers[2].name`; `None` for the message as a whole.
        field: Option<String>,
        /// What is wrong with it.
        reason: String,
    },
    /// The server answered with a status other than OK.
    #[error("the server answered {} ({}){}", code_name(.0.code()), code_number(.0.code()), message(.0))]
    Status(Box<Status>),
    /// The connection broke while the call ran.
    #[error("the connection broke: {reason}")]
    Broken {
        /// What happened.
        reason: String,
    },
    /// Not over in time; the server may still be at work.
    #[error("deadline exceeded after {deadline:?}")]
    Deadline {
        /// How long it was given.
        deadline: Duration,
    },
    /// The output could not be written.
    #[error("cannot write the reply: {0}")]
    Write(#[source] io::Error),
}

impl CallError {
    /// The gRPC status number: the server's own, or 4 (`DEADLINE_EXCEEDED`) when time ran out
    /// here. `None` when no server answered.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Status(status) => Some(code_number(status.code())),
            Self::Deadline { .. } => Some(code_number(Code::DeadlineExceeded)),
            _ => None,
        }
    }

    /// The name of the status as the gRPC specification writes it, such as `NOT_FOUND`.
    #[must_use]
    pub fn code_name(&self) -> Option<&'static str> {
        self.code().map(|number| code_name(Code::from_i32(number)))
    }

    /// What the server said along with its status; may be empty.
    #[must_use]
    pub fn status_message(&self) -> Option<&str> {
        match self {
            Self::Status(status) => Some(status.message()),
            _ => None,
        }
    }

    /// Refuses more than `limit` of something.
    pub(super) fn bound(what: &'static str, found: usize, limit: usize) -> Result<(), Self> {
        if found > limit { Err(Self::TooLarge { what, found, limit }) } else { Ok(()) }
    }

    pub(super) fn connect(target: &str, source: &tonic::transport::Error) -> Self {
        Self::Connect { target: target.to_owned(), reason: chain(source) }
    }
}

impl From<Status> for CallError {
    /// A status with a source was made on this side of the wire.
    fn from(status: Status) -> Self {
        let mut source = status.source();
        while let Some(error) = source {
            if error.is::<TimeoutExpired>() {
                // Whoever set the deadline knows how long it was, and fills it in.
                return Self::Deadline { deadline: Duration::ZERO };
            }
            source = error.source();
        }
        if status.source().is_some() {
            return Self::Broken { reason: chain(&status) };
        }
        Self::Status(Box::new(status))
    }
}

fn message(status: &Status) -> String {
    match status.message() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

fn code_number(code: Code) -> i32 {
    code.into()
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
