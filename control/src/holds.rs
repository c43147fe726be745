//! What the guard holds, for those outside of the control loop: the list of it, rows for the report,
//! and the command that releases it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;
use portolan_model::{Generation, ServiceKey};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

use crate::object::ObjectId;
use crate::rejection::{Origin, Rejection, Severity, Subject};
use crate::removal::{Guard, Hold, Loss, Moment, Reason, SourceLoss};

/// Releases that may wait for the loop; one more is refused.
const COMMANDS: usize = 16;
/// Longest time that a release waits for the loop.
const PATIENCE: Duration = Duration::from_secs(30);

/// A handle on what a control loop holds back; cheap to clone.
#[derive(Clone, Debug)]
pub struct Holds {
    held: watch::Receiver<Arc<Vec<Held>>>,
    commands: mpsc::Sender<Command>,
}

/// The control loop's end of [`Holds`].
#[derive(Debug)]
pub struct HoldsEnd {
    held: watch::Sender<Arc<Vec<Held>>>,
    commands: mpsc::Receiver<Command>,
}

/// What is to be released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that is held.
    All,
    /// A service.
    One(ServiceKey),
}

/// Where the answer to a command goes.
pub(crate) type Answer = oneshot::Sender<Result<Released, ReleaseError>>;

/// A command and where its answer goes.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) which: Which,
    pub(crate) answer: Answer,
}

/// What was released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Released {
    /// The services.
    pub released: Vec<String>,
    /// The generation in which they are as the source has them.
    pub generation: Generation,
}

/// Why nothing was released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Nothing is held.
    #[error("nothing is held back")]
    Nothing,
    /// That one is not.
    #[error("{0} is not held back")]
    NotHeld(ServiceKey),
    /// Too many commands wait.
    #[error("{COMMANDS} commands wait for the control loop already")]
    Busy,
    /// The loop did not answer.
    #[error("the control loop did not answer")]
    NoAnswer,
}

/// A service that is held, as it is listed.
#[derive(Clone, Debug)]
struct Held {
    key: ServiceKey,
    hold: Hold,
    text: String,
}

/// A service that is held, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldRow {
    /// Which.
    pub service: String,
    /// `source` where its source lost too many, `endpoints` where it lost all of its own.
    pub why: &'static str,
    /// Whether the source has no such service any more.
    pub gone: bool,
    /// Ready endpoints it had.
    pub endpoints: usize,
    /// For how long it has been held, in seconds.
    pub held_secs: u64,
    /// For how long it will be at most, in seconds; `None`: until it is back or released.
    pub left_secs: Option<u64>,
    /// What happened, in words.
    pub reason: String,
}

/// A handle and the end that goes to the loop. Nothing is held yet.
#[must_use]
pub fn channel() -> (Holds, HoldsEnd) {
    let (held, listed) = watch::channel(Arc::default());
    let (sender, commands) = mpsc::channel(COMMANDS);
    (Holds { held: listed, commands: sender }, HoldsEnd { held, commands })
}

impl Holds {
    /// What is held, in order of the services.
    #[must_use]
    pub fn list(&self) -> Vec<HeldRow> {
        let (held, now) = (self.held.borrow().clone(), now().at);
        held.iter().map(|held| held.row(now)).collect()
    }

    /// Lets go what is held, and waits until what the source has of it is published.
    ///
    /// # Errors
    /// [`ReleaseError`] when nothing of the kind is held, or the loop cannot be asked.
    pub async fn release(&self, which: Which) -> Result<Released, ReleaseError> {
        let (answer, answered) = oneshot::channel();
        match self.commands.try_send(Command { which, answer }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(ReleaseError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(ReleaseError::NoAnswer),
        }
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(ReleaseError::NoAnswer),
        }
    }
}

impl HoldsEnd {
    /// The next command; never completes where nobody can give one.
    pub(crate) async fn next(&mut self) -> Command {
        match self.commands.recv().await {
            Some(command) => command,
            None => std::future::pending().await,
        }
    }

    /// Lists what a guard holds now.
    pub(crate) fn set(&self, guard: &Guard) {
        let source = guard.source();
        let held = guard.held().iter().map(|(key, hold)| Held {
            key: key.clone(),
            hold: hold.clone(),
            text: what_happened(hold, source),
        });
        self.held.send_replace(Arc::new(held.collect()));
    }
}

impl Held {
    fn row(&self, now: Instant) -> HeldRow {
        let Hold { reason, loss, endpoints, since, until, .. } = &self.hold;
        HeldRow {
            service: self.key.to_string(),
            why: reason.as_str(),
            gone: *loss == Loss::Gone,
            endpoints: *endpoints,
            held_secs: now.saturating_duration_since(since.at).as_secs(),
            left_secs: until.map(|until| until.at.saturating_duration_since(now).as_secs()),
            reason: self.text.clone(),
        }
    }
}

/// The rows of a report: one for what the source lost, one for each service held for itself.
pub(crate) fn rejections(guard: &Guard, origin: &Origin) -> Vec<Rejection> {
    let row = |object, reason, subject| Rejection {
        origin: origin.clone(),
        object,
        field: None,
        reason,
        severity: Severity::Held,
        subject,
    };
    let of = |reason| guard.held().iter().filter(move |(_, hold)| hold.reason == reason);
    let until = of(Reason::Source).map(|(_, hold)| hold.until).max_by_key(|u| u.map(|u| u.at));
    let source = guard.source().zip(until).map(|(source, until)| {
        let text = format!("{}; {}", of_source(source), until_when(until, "--all"));
        row(None, text, None)
    });
    let own = of(Reason::Endpoints).map(|(key, hold)| {
        let what = what_happened(hold, None);
        let text = format!("{what}; {}", until_when(hold.until, &key.to_string()));
        let id = ObjectId::of_service(key);
        row(Some(id.to_string()), text, Some(Subject { id, uid: None }))
    });
    source.into_iter().chain(own).collect()
}

fn what_happened(hold: &Hold, source: Option<SourceLoss>) -> String {
    let own = match (hold.loss, hold.endpoints) {
        (Loss::Gone, _) => "the service is gone".to_owned(),
        (Loss::Emptied, count) => format!("all {count} endpoints gone at once"),
    };
    match source.filter(|_| hold.reason == Reason::Source) {
        Some(source) => format!("{own}; {}", of_source(source)),
        None => own,
    }
}

fn of_source(source: SourceLoss) -> String {
    let SourceLoss { loss, lost, of } = source;
    match loss {
        Loss::Gone => format!("{lost} of {of} services gone at once"),
        Loss::Emptied => format!("{lost} of {of} services without endpoints at once"),
    }
}

fn until_when(until: Option<Moment>, what: &str) -> String {
    let command = format!("portolan guard release {what}");
    match until.and_then(|until| Timestamp::try_from(until.wall).ok()) {
        Some(time) => format!("held back until {time:.0} ({command})"),
        None => format!("held back until released ({command})"),
    }
}

/// Now, by the runtime's clock, which tests can turn, and by the calendar.
pub(crate) fn now() -> Moment {
    Moment { at: tokio::time::Instant::now().into_std(), wall: SystemTime::now() }
}
