//! What a stream has to pass before it begins: who the client is, and when it is its turn.

use std::sync::Arc;

use http::HeaderMap;
use portolan_runtime::pause::jittered;
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::codegen::http;

use super::admission::Admitted;
use super::authorize::{Authorization, Identity};
use super::connections::Remote;
use super::stream::Streams;
use crate::issuer::Held;
use crate::resource::rbac::spiffe;
use crate::viewer::{Own, Viewer};

/// Longest token, in octets.
const MAX_TOKEN: usize = 16 * 1024;

/// A client that was let in.
pub(super) struct Peer {
    pub(super) address: String,
    pub(super) identity: Option<Arc<str>>,
    /// What its identity lets it see.
    pub(super) viewer: Viewer,
    /// It is believed whatever service account it says it is.
    pub(super) names_itself: bool,
}

impl Streams {
    /// Lets a client in, or says why not. At most a limited number wait for their turn.
    pub(super) async fn admit<B>(&self, request: http::Request<B>) -> Result<(Peer, B), Status> {
        let (parts, body) = request.into_parts();
        let remote = parts.extensions.get::<Remote>().cloned();
        let identity = self.identify(remote.as_ref(), &parts.headers).await?;
        let from = remote.as_ref().map(|remote| remote.address.ip());
        match self.admission.reserve(Instant::now(), from) {
            Admitted::After(wait) if wait.is_zero() => {}
            Admitted::After(wait) => {
                self.metrics.delayed.inc();
                sleep(jittered(wait)).await;
            }
            Admitted::Refused => {
                self.metrics.refused.inc();
                return Err(Status::unavailable("too many clients come at once; try again later"));
            }
        }
        let namespaces = match (&self.authorization, &identity) {
            (Some(authorization), Some(identity)) => authorization.namespaces(identity),
            _ => None,
        };
        let secrets = remote.as_ref().is_some_and(|remote| may_have_keys(remote, &identity));
        let known = match (&identity, &remote) {
            (Some(identity), _) => Some(identity.clone()),
            (None, Some(remote)) => self.by_certificate(remote),
            (None, None) => None,
        };
        let namespace = known.as_ref().map(|known| Arc::clone(&known.namespace));
        let own =
            known.filter(|_| secrets).map(|identity| self.own(&identity)).transpose()?.flatten();
        let viewer = Viewer { namespace, namespaces, secrets, own: Own(own), ..Viewer::default() };
        // Of clients of which nothing is asked, those may say who they are that this process would
        // believe anything.
        let names_itself = identity.is_none()
            && remote.as_ref().is_some_and(|remote| {
                remote.internal || self.trusts_local && remote.address.ip().is_loopback()
            });
        let address = remote.map(|remote| remote.address.to_string()).unwrap_or_default();
        let identity = identity.map(|identity| identity.to_string().into());
        Ok((Peer { address, identity, viewer, names_itself }, body))
    }

    /// The certificate of a service account, where there is an issuer. Without it the client would be
    /// told to speak in the clear: it is to come again.
    pub(super) fn own(&self, identity: &Identity) -> Result<Option<Arc<Held>>, Status> {
        let Some(issuer) = &self.issuer else { return Ok(None) };
        let Identity { namespace, account } = identity;
        let held = issuer.hold(&spiffe(issuer.trust_domain(), namespace, account));
        let none = || Status::unavailable(format!("no certificate can be issued to {identity}"));
        held.map(Some).ok_or_else(none)
    }

    /// Who shows a certificate of a service account, though none is asked for.
    fn by_certificate(&self, remote: &Remote) -> Option<Identity> {
        let domain = self.issuer.as_ref()?.trust_domain();
        remote.identities.iter().find_map(|uri| Identity::from_spiffe(uri, domain))
    }

    /// Whether a client may see everything, and so what others do.
    pub(super) async fn sees_all(
        &self,
        remote: Option<&Remote>,
        headers: &HeaderMap,
    ) -> Result<bool, Status> {
        let identity = self.identify(remote, headers).await?;
        Ok(match (&self.authorization, identity) {
            (Some(authorization), Some(identity)) => authorization.namespaces(&identity).is_none(),
            // Of the clients without an identity only this process itself gets here.
            (_, None) | (None, _) => true,
        })
    }

    /// Whether a client may know of what is in a namespace; an error if not.
    pub(super) async fn may_see(
        &self,
        remote: Option<&Remote>,
        headers: &HeaderMap,
        namespace: &str,
    ) -> Result<(), Status> {
        let identity = self.identify(remote, headers).await?;
        let (Some(authorization), Some(identity)) = (&self.authorization, identity) else {
            return Ok(());
        };
        match authorization.namespaces(&identity) {
            Some(seen) if !seen.contains(namespace) => {
                let text = format!("{identity} may not see namespace {namespace}");
                Err(Status::permission_denied(text))
            }
            _ => Ok(()),
        }
    }

    /// Who the client proves to be; an error where it has to and does not.
    async fn identify(
        &self,
        remote: Option<&Remote>,
        headers: &HeaderMap,
    ) -> Result<Option<Identity>, Status> {
        if remote.is_some_and(|remote| remote.internal) {
            let token = bearer(headers);
            if token.is_none() || token != self.internal.as_deref() {
                self.metrics.unauthenticated.inc();
                return Err(Status::unauthenticated("this way is for the process itself"));
            }
            return Ok(None);
        }
        let Some(authorization) = &self.authorization else { return Ok(None) };
        let certificates = remote.map(|remote| &*remote.identities).unwrap_or_default();
        let by_certificate = (certificates.iter())
            .find_map(|uri| Identity::from_spiffe(uri, &authorization.trust_domain));
        let identity = match by_certificate {
            Some(identity) => Some(identity),
            None => by_token(authorization, headers).await?,
        };
        if identity.is_none() {
            self.metrics.unauthenticated.inc();
            return Err(Status::unauthenticated(
                "neither a certificate with a SPIFFE id of the trust domain nor a valid token of a \
                 service account",
            ));
        }
        Ok(identity)
    }
}

/// Private keys go to nobody who could be anybody, and never where others can read along: to this
/// machine, and over TLS to clients with a verified certificate or an identity.
fn may_have_keys(remote: &Remote, identity: &Option<Identity>) -> bool {
    let known = identity.is_some() || !remote.identities.is_empty();
    remote.address.ip().is_loopback() || remote.encrypted && known
}

async fn by_token(
    authorization: &Authorization,
    headers: &HeaderMap,
) -> Result<Option<Identity>, Status> {
    let (Some(review), Some(token)) = (&authorization.tokens, bearer(headers)) else {
        return Ok(None);
    };
    let user = (review.0)(token.to_owned()).await;
    let user = user
        .map_err(|error| Status::unavailable(format!("the token cannot be looked at: {error}")))?;
    Ok(user.as_deref().and_then(Identity::from_user))
}

/// The token a client sends along (RFC 6750).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let header = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    header.strip_prefix("Bearer ").filter(|token| token.len() <= MAX_TOKEN)
}
