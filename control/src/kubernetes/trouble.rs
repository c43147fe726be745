//! What goes wrong between us and the API server, in words that name verb and resource.

use std::time::Duration;

use kube::core::Status;
use kube::runtime::watcher::Error;
use portolan_runtime::causes::innermost;

use crate::object::Kind;

/// A failed list or watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// One line for people.
    pub(super) text: String,
    /// What it means for the watch.
    pub(super) cause: Cause,
    /// How long the server asks to be left alone.
    pub(super) retry_after: Option<Duration>,
}

/// What a failure means for the watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The API does not have the resource.
    Unserved,
    /// It may not be read, and the rest does without it: rights of an earlier version do not have it.
    Ungranted,
    /// The server does not stream lists.
    NoStreamingLists,
    /// What was seen is too old to go on from, or an event was lost: a list is due.
    Lost,
    /// Anything that may pass.
    Passing,
}

impl Trouble {
    pub(super) fn new(kind: Kind, error: &Error) -> Self {
        let (verb, status) = match error {
            Error::InitialListFailed(error) => ("list", status(error)),
            Error::WatchStartFailed(error) | Error::WatchFailed(error) => ("watch", status(error)),
            Error::WatchError(status) => ("watch", Some(&**status)),
            Error::NoResourceVersion => ("watch", None),
        };
        let resource = resource(kind);
        let reason = status
            .filter(|s| !s.message.is_empty())
            .map_or_else(|| innermost(error), |s| s.message.clone());
        let mut text = format!("cannot {verb} {resource}: {reason}");
        if status.is_some_and(|s| s.code == 403) {
            text.push_str("; deploy/rbac.yaml grants what is needed");
        }
        let seconds = status.and_then(|s| s.details.as_ref()).map(|d| d.retry_after_seconds);
        Self {
            text,
            cause: cause(kind, error, status),
            retry_after: seconds.filter(|s| *s > 0).map(|s| Duration::from_secs(u64::from(s))),
        }
    }

    /// A list ended, or was begun anew, before it was complete.
    pub(super) fn broken_off(kind: Kind) -> Self {
        let text = format!("cannot list {}: the list broke off", resource(kind));
        Self { text, cause: Cause::Passing, retry_after: None }
    }

    /// Nothing came for too long.
    pub(super) fn stalled(kind: Kind, limit: Duration) -> Self {
        let text =
            format!("cannot list {}: nothing came for {} s", resource(kind), limit.as_secs());
        Self { text, cause: Cause::Passing, retry_after: None }
    }
}

/// `endpointslices.discovery.k8s.io`.
fn resource(kind: Kind) -> String {
    match kind.group_version().0 {
        "" => kind.plural().to_owned(),
        group => format!("{}.{group}", kind.plural()),
    }
}

fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

fn cause(kind: Kind, error: &Error, status: Option<&Status>) -> Cause {
    match (error, status.map_or(0, |status| status.code)) {
        (_, 410) => Cause::Lost,
        // kube would read on, on a stream that the server has no more to say on.
        (Error::WatchError(_), _) => Cause::Lost,
        // An event that cannot be read is an event that is missing.
        (Error::WatchFailed(kube::Error::SerdeError(_)), _) => Cause::Lost,
        // Every API server has the kinds of Kubernetes itself.
        (Error::InitialListFailed(_) | Error::WatchStartFailed(_), 404) if kind.is_custom() => {
            Cause::Unserved
        }
        (Error::InitialListFailed(_) | Error::WatchStartFailed(_), 403)
            if kind.is_for_gateways() || kind.is_custom() =>
        {
            Cause::Ungranted
        }
        // An API server says 400 or 422 to `sendInitialEvents` where it does not know it (KEP-3157).
        (Error::WatchStartFailed(_), 400 | 422) => Cause::NoStreamingLists,
        _ => Cause::Passing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, message: &str) -> kube::Error {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        kube::Error::Api(Box::new(status))
    }

    #[test]
    fn a_refusal_names_verb_and_resource_and_what_grants_it() {
        let error = Error::InitialListFailed(api(403, "User \"x\" cannot list it"));
        let trouble = Trouble::new(Kind::EndpointSlice, &error);
        let text = "cannot list endpointslices.discovery.k8s.io: User \"x\" cannot list it; \
                    deploy/rbac.yaml grants what is needed";
        assert_eq!((trouble.text.as_str(), trouble.cause), (text, Cause::Passing));
    }

    #[test]
    fn causes_are_told_apart() {
        let cases = [
            (Error::WatchStartFailed(api(422, "")), Cause::NoStreamingLists),
            (Error::InitialListFailed(api(422, "")), Cause::Passing),
            (Error::WatchStartFailed(api(410, "")), Cause::Lost),
            (Error::WatchError(Box::default()), Cause::Lost),
            (Error::WatchFailed(api(500, "")), Cause::Passing),
            (Error::NoResourceVersion, Cause::Passing),
        ];
        for (error, cause) in cases {
            assert_eq!(Trouble::new(Kind::Service, &error).cause, cause, "{error}");
        }
        let absent = Error::InitialListFailed(api(404, ""));
        assert_eq!(Trouble::new(Kind::ServiceImport, &absent).cause, Cause::Unserved);
        assert_eq!(Trouble::new(Kind::Gateway, &absent).cause, Cause::Unserved);
        assert_eq!(Trouble::new(Kind::Service, &absent).cause, Cause::Passing);
        let forbidden = Error::WatchStartFailed(api(403, ""));
        assert_eq!(Trouble::new(Kind::Gateway, &forbidden).cause, Cause::Ungranted);
        assert_eq!(Trouble::new(Kind::Service, &forbidden).cause, Cause::Passing);
    }
}
