//! Whether a connection or a request may pass, by what its listener says of who may do what.
//!
//! Owns how it is counted. What is only to be logged never keeps anybody out.

use std::net::IpAddr;

use portolan_model::traffic::{Access, Asked, Caller, NameKind, ResourceName};

use crate::metrics::ListenerMetrics;

/// What a client has shown by TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof {
    /// The names of its certificate, if it has one that was verified.
    pub(crate) names: Option<Vec<(NameKind, String)>>,
    /// The name that it asked for.
    pub(crate) server_name: Option<Box<str>>,
    /// The route table of its requests, where that is not the listener's.
    pub(crate) routes: Option<ResourceName>,
}

/// What becomes of those who are judged, in the order of their counters.
pub(crate) const OUTCOMES: [&str; 4] = ["allowed", "denied", "would_allow", "would_deny"];

/// It may not pass.
#[derive(Debug)]
pub(crate) struct Denied {
    /// By which rule, for those who watch.
    pub(crate) why: String,
}

impl Proof {
    /// Who holds a connection that came to a port.
    pub(crate) fn caller<'a>(
        proof: Option<&'a Self>,
        remote: IpAddr,
        connected: IpAddr,
        port: u16,
    ) -> Caller<'a> {
        Caller {
            proven: proof.and_then(|proof| proof.names.as_deref()),
            remote,
            connected,
            port,
            server_name: proof.and_then(|proof| proof.server_name.as_deref()),
        }
    }

    /// Who it is, as far as it has proven it.
    pub(crate) fn identity(proof: Option<&Self>) -> Option<&str> {
        let names = proof?.names.as_deref()?;
        let uri = names.iter().find(|(kind, _)| *kind == NameKind::Uri);
        uri.or(names.first()).map(|(_, name)| &**name)
    }
}

/// Judges by each list in its turn.
///
/// # Errors
/// The first that it does not pass. `asked` is `None` of a connection.
pub(crate) fn judge(
    lists: &[Access],
    caller: &Caller<'_>,
    asked: Option<&impl Asked>,
    metrics: &ListenerMetrics,
) -> Result<(), Denied> {
    for list in lists {
        let (passes, rule) = list.judge(caller, asked);
        let outcome = usize::from(!passes) + if list.log_only { 2 } else { 0 };
        metrics.access[outcome].add(1);
        if passes {
            continue;
        }
        let why = match rule {
            Some(rule) => format!("denied by {}", rule.name),
            None => "no rule allows it".to_owned(),
        };
        if !list.log_only {
            return Err(Denied { why });
        }
        tracing::debug!(caller = ?caller.proven, why, "would be denied");
    }
    Ok(())
}
