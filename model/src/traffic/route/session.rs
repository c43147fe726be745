//! How a client stays with the endpoint that it got first (Envoy `StatefulSession`; Gateway API
//! `sessionPersistence`, GEP-1619).

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A client stays with its endpoint for as long as that serves; after that it gets another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Name of the cookie, or of the field.
    pub name: Arc<str>,
    /// What the client brings it in.
    pub by: SessionBy,
}

/// What says which endpoint a client has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SessionBy {
    /// A cookie, for requests below a path.
    Cookie {
        /// The path; empty: all.
        path: Arc<str>,
        /// How long it is good for; `None`: as long as the browser keeps it.
        ttl: Option<Duration>,
    },
    /// A field of requests, and of the answers that give it.
    Header,
}

impl Session {
    /// Whether it is about a request for this path.
    #[must_use]
    pub fn is_about(&self, path: &[u8]) -> bool {
        let SessionBy::Cookie { path: own, .. } = &self.by else { return true };
        let own = own.trim_end_matches('/').as_bytes();
        path.starts_with(own) && matches!(path.get(own.len()), None | Some(b'/' | b'?'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_for_what_is_below_its_path() {
        for (own, path, about) in [
            ("", "/a", true),
            ("/", "/", true),
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/a/", "/a", true),
            ("/a", "/ab", false),
            ("/a", "/", false),
        ] {
            let by = SessionBy::Cookie { path: own.into(), ttl: None };
            let session = Session { name: "s".into(), by };
            assert_eq!(session.is_about(path.as_bytes()), about, "{own} {path}");
        }
    }
}
