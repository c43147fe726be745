//! Who a client is and which namespaces it may see: by the SPIFFE id of its certificate, or by a
//! token of a Kubernetes service account.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub account: Arc<str>,
}

/// Which namespaces a service account may see besides its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The account's namespace; `*` for any.
    pub namespace: Arc<str>,
    /// The account; `*` for any.
    pub account: Arc<str>,
    /// What it may see; `*` for everything.
    pub sees: Vec<Arc<str>>,
}

/// What clients have to prove, and what it gets them.
#[derive(Clone, Debug, Default)]
pub struct Authorization {
    /// The trust domain that SPIFFE ids have to be of.
    pub trust_domain: String,
    /// Grants; all that match count.
    pub grants: Vec<Grant>,
    /// Asks the Kubernetes API whose a token is; without it tokens are worth nothing.
    pub tokens: Option<TokenReview>,
}

/// Finds the user name of a token: `None` if it is not valid, an error if nobody can say.
#[derive(Clone)]
pub struct TokenReview(pub Arc<dyn Fn(String) -> TokenAnswer + Send + Sync>);

/// The answer to a token.
pub type TokenAnswer = BoxFuture<'static, Result<Option<String>, String>>;

impl fmt::Debug for TokenReview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenReview")
    }
}

impl Identity {
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<account>`, the form that Istio, Linkerd and SPIRE
    /// use on Kubernetes.
    #[must_use]
    pub fn from_spiffe(uri: &str, trust_domain: &str) -> Option<Self> {
        let path = uri.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?;
        let rest = path.strip_prefix("/ns/")?;
        let (namespace, account) = rest.split_once("/sa/")?;
        Self::of(namespace, account)
    }

    /// `system:serviceaccount:<namespace>:<account>`, the user name of a service account.
    #[must_use]
    pub fn from_user(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("system:serviceaccount:")?;
        let (namespace, account) = rest.split_once(':')?;
        Self::of(namespace, account)
    }

    /// `<namespace>/<account>`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, account) = text.split_once('/')?;
        Self::of(namespace, account)
    }

    fn of(namespace: &str, account: &str) -> Option<Self> {
        let is_part = |text: &str| !text.is_empty() && !text.contains(['/', ':', '*']);
        (is_part(namespace) && is_part(account))
            .then(|| Self { namespace: namespace.into(), account: account.into() })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.account)
    }
}

impl Authorization {
    /// The namespaces an account may see; `None` for all.
    #[must_use]
    pub fn namespaces(&self, identity: &Identity) -> Option<Arc<BTreeSet<Arc<str>>>> {
        let matches = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        let mut seen = BTreeSet::from([identity.namespace.clone()]);
        for grant in &self.grants {
            if !matches(&grant.namespace, &identity.namespace)
                || !matches(&grant.account, &identity.account)
            {
                continue;
            }
            if grant.sees.iter().any(|namespace| &**namespace == "*") {
                return None;
            }
            seen.extend(grant.sees.iter().cloned());
        }
        Some(seen.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_to_the_letter() {
        let cases = [
            ("spiffe://cluster.local/ns/shop/sa/web", Some("shop/web")),
            ("spiffe://other/ns/shop/sa/web", None),
            ("spiffe://cluster.local.evil/ns/shop/sa/web", None),
            ("spiffe://cluster.local/ns/shop/sa/web/more", None),
            ("spiffe://cluster.local/ns/a/ns/shop/sa/web", None),
            ("spiffe://cluster.local/ns//sa/web", None),
            ("spiffe://cluster.local/ns/shop/sa/", None),
            ("spiffe://cluster.local/ns/*/sa/web", None),
            ("https://cluster.local/ns/shop/sa/web", None),
        ];
        for (uri, expected) in cases {
            let found = Identity::from_spiffe(uri, "cluster.local").map(|id| id.to_string());
            assert_eq!(found.as_deref(), expected, "{uri}");
        }
        let cases = [
            ("system:serviceaccount:shop:web", Some("shop/web")),
            ("system:serviceaccount:shop", None),
            ("system:serviceaccount::web", None),
            ("system:serviceaccount:shop:web:more", None),
            ("system:node:a", None),
            ("kubernetes-admin", None),
        ];
        for (user, expected) in cases {
            let found = Identity::from_user(user).map(|id| id.to_string());
            assert_eq!(found.as_deref(), expected, "{user}");
        }
    }

    #[test]
    fn an_account_sees_its_own_namespace_and_what_it_is_granted() {
        let grant = |namespace: &str, account: &str, sees: &[&str]| Grant {
            namespace: namespace.into(),
            account: account.into(),
            sees: sees.iter().map(|name| Arc::from(*name)).collect(),
        };
        let grants = vec![
            grant("*", "*", &["shared"]),
            grant("shop", "web", &["pay", "mail"]),
            grant("edge", "*", &["*"]),
        ];
        let authorization =
            Authorization { trust_domain: "cluster.local".into(), grants, tokens: None };
        let cases = [
            ("shop", "web", Some(vec!["mail", "pay", "shared", "shop"])),
            ("shop", "other", Some(vec!["shared", "shop"])),
            ("edge", "gateway", None),
            ("web", "shop", Some(vec!["shared", "web"])),
        ];
        for (namespace, account, expected) in cases {
            let identity = Identity { namespace: namespace.into(), account: account.into() };
            let seen = authorization.namespaces(&identity);
            let seen = seen.as_ref().map(|set| set.iter().map(|n| &**n).collect::<Vec<_>>());
            assert_eq!(seen, expected, "{identity}");
        }
    }
}
