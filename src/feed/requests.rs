//! The feed behind `portolan get requests` and `portolan why`: the decision records of the proxy of
//! this process. Whoever watches is told each second.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::BoxStream;
use portolan_proxy::{Decision, StateHandle};
use portolan_runtime::admin::{Admin, Question};

use super::interval::{Source, lines};

/// How often whoever watches is told.
const EVERY: Duration = Duration::from_secs(1);

/// Adds the feed.
pub(crate) fn add(admin: Admin, state: &StateHandle) -> Admin {
    let state = state.clone();
    admin.with_feed("requests", move |question| requests(state.clone(), question))
}

struct Requests {
    state: StateHandle,
    question: Question,
}

fn requests(state: StateHandle, question: Question) -> BoxStream<'static, String> {
    let watch = question.watch;
    lines(Requests { state, question }, EVERY, watch)
}

impl Source for Requests {
    /// Time and id.
    type Key = (String, String);
    type Row = Decision;

    fn look(&self) -> BTreeMap<Self::Key, Decision> {
        let all = self.state.decisions();
        all.iter()
            .filter(|decision| is_asked(decision, &self.question))
            .map(|one| ((one.time.clone(), one.request_id.clone()), Decision::clone(one)))
            .collect()
    }

    fn is_same(_before: &Decision, _after: &Decision) -> bool {
        // What has ended does not change.
        true
    }
}

/// By the beginning of the id, and the namespace of the cluster.
fn is_asked(decision: &Decision, question: &Question) -> bool {
    let namespace = decision.cluster.as_ref().and_then(|cluster| Some(cluster.split_once('/')?.0));
    question.name.as_ref().is_none_or(|id| decision.request_id.starts_with(&**id))
        && question.namespace.as_deref().is_none_or(|asked| namespace == Some(asked))
}
