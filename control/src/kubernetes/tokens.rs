//! Whose a bearer token is, by the Kubernetes API (TokenReview of `authentication.k8s.io/v1`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use portolan_runtime::causes::chain;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_128;

/// For how long an answer counts: as long as a token that was taken back may go on being good.
const KEPT: Duration = Duration::from_secs(60);
/// Answers that are kept; past this they are forgotten all at once.
const MAX_KEPT: usize = 10_000;
/// Questions to the API at a time; more wait.
const AT_ONCE: usize = 16;
/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Asks whose tokens are. Cheap to clone.
#[derive(Clone)]
pub struct TokenReviewer {
    api: Api<TokenReview>,
    kept: Arc<Mutex<HashMap<u128, Answer>>>,
    asking: Arc<Semaphore>,
}

struct Answer {
    at: Instant,
    user: Option<String>,
}

impl std::fmt::Debug for TokenReviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReviewer").finish_non_exhaustive()
    }
}

impl TokenReviewer {
    pub(super) fn new(client: Client) -> Self {
        let asking = Arc::new(Semaphore::new(AT_ONCE));
        Self { api: Api::all(client), kept: Arc::default(), asking }
    }

    /// The user name of a token; `None` if the API does not take it.
    ///
    /// # Errors
    /// When the API does not answer, in words.
    pub async fn user(&self, token: String) -> Result<Option<String>, String> {
        // Tokens themselves are not kept.
        let key = xxh3_128(token.as_bytes());
        if let Some(user) = self.known(key) {
            return Ok(user);
        }
        let user = timeout(LIMIT, self.ask(token)).await;
        let user = user.map_err(|_| format!("no answer within {} s", LIMIT.as_secs()))??;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(key, Answer { at: Instant::now(), user: user.clone() });
        Ok(user)
    }

    fn known(&self, key: u128) -> Option<Option<String>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = kept.get(&key).filter(|answer| answer.at.elapsed() < KEPT)?;
        Some(answer.user.clone())
    }

    async fn ask(&self, token: String) -> Result<Option<String>, String> {
        let _turn = self.asking.acquire().await.map_err(|error| error.to_string())?;
        let spec = TokenReviewSpec { token, audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = self.api.create(&PostParams::default(), &review).await;
        let status = answer.map_err(|error| chain(&error))?.status.unwrap_or_default();
        let good = status.authenticated == Some(true);
        Ok(status.user.filter(|_| good).and_then(|user| user.username))
    }
}
