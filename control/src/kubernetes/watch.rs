//! The watch of one kind: kube's watcher, started anew where it cannot go on by itself.
//!
//! Owns the choice between streamed and paged lists, the waits after failures, and the bound on
//! how long a list may be silent. Knows nothing of what objects mean.

use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kube::runtime::watcher::{self, Config, Event as Raw, watcher};
use kube::{Api, Client};
use portolan_runtime::pause::jittered;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::item::{Item, Watched};
use super::store::Event;
use super::trouble::{Cause, Trouble};
use crate::object::{Kind, TLS_SECRET};

/// Shortest wait after a failure; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(200);
/// Longest wait after a failure.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Time without a failure after which the next one is waited for as the first.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// How often a resource that the API does not have is asked for again.
const UNSERVED_WAIT: Duration = Duration::from_secs(60);
/// Answers in a row that a kind is not served before one that was is given up.
const BELIEVED_ABSENCES: u32 = 3;
/// Objects in a page of a list: of slices there are few, since each holds up to 100 endpoints.
const PAGE_SIZE: u32 = 500;
const SLICE_PAGE_SIZE: u32 = 100;

/// How watches go about it.
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    /// After how many seconds a watch is to be made anew; the server ends it then, and five
    /// seconds later a connection on which nothing comes is given up.
    pub watch_secs: u32,
    /// For how long a list may be silent before it is begun anew.
    pub list_silence: Duration,
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self { watch_secs: 290, list_silence: Duration::from_secs(30) }
    }
}

/// What a watch sends.
pub(super) enum Message {
    Event(Kind, Event),
    /// Something went wrong; the watch goes on.
    Trouble(Kind, Trouble),
    /// Nothing has gone wrong for a while.
    Recovered(Kind),
}

/// Watches a kind until nobody listens.
pub(super) async fn run<K: Watched>(
    client: Client,
    limits: WatchLimits,
    messages: mpsc::Sender<Message>,
) {
    let mut watch = Watch {
        kind: K::KIND,
        limits,
        messages,
        backoff: MIN_BACKOFF,
        last_trouble: None,
        troubled: false,
        absences: None,
        lists: Lists::Streamed,
    };
    while watch.once::<K>(&client).await.is_ok() {}
}

/// Nobody listens any more.
struct Gone;

struct Watch {
    kind: Kind,
    limits: WatchLimits,
    messages: mpsc::Sender<Message>,
    backoff: Duration,
    last_trouble: Option<Instant>,
    /// Trouble was told and recovery was not yet.
    troubled: bool,
    /// Answers in a row that there is no such kind; `None` while it was never listed.
    absences: Option<u32>,
    lists: Lists,
}

/// How the next list is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lists {
    /// As a watch that begins with all objects (KEP-3157).
    Streamed,
    /// In pages this time, since the last stream broke off.
    PagedOnce,
    /// In pages, since the server does not stream lists.
    Paged,
}

impl Watch {
    /// One of kube's watchers, for as long as it can go on.
    async fn once<K: Watched>(&mut self, client: &Client) -> Result<(), Gone> {
        let mut events = pin!(watcher(Api::<Item<K>>::all(client.clone()), self.config()));
        let (mut listed, mut begun) = (false, false);
        loop {
            let Some(next) = self.next(&mut events, listed).await? else {
                // A server that knows nothing of streamed lists may take the request for a plain
                // watch, and never say that the list is complete.
                self.after_broken_list();
                let limit = self.limits.list_silence;
                return self.wait(Trouble::stalled(self.kind, limit)).await;
            };
            match next {
                Ok(event) => {
                    match event {
                        Raw::Init if begun && !listed => {
                            // kube's watcher would begin anew without end or pause.
                            self.after_broken_list();
                            return self.wait(Trouble::broken_off(self.kind)).await;
                        }
                        Raw::Init => (listed, begun) = (false, true),
                        Raw::InitDone => {
                            listed = true;
                            self.absences = Some(0);
                            if self.lists == Lists::PagedOnce {
                                self.lists = Lists::Streamed;
                            }
                        }
                        _ => {}
                    }
                    self.send(Message::Event(self.kind, converted(event))).await?;
                }
                Err(error) => {
                    let trouble = Trouble::new(self.kind, &error);
                    let cause = trouble.cause;
                    // Of policies nobody may take it that there are none.
                    let is_done_without = cause == Cause::Ungranted
                        && self.absences.is_none()
                        && (self.kind.is_for_gateways() || self.is_undefined(client).await);
                    match cause {
                        Cause::NoStreamingLists if self.lists == Lists::Streamed && !begun => {
                            self.lists = Lists::Paged;
                        }
                        Cause::Unserved if self.is_absent() => {
                            self.send(Message::Event(self.kind, Event::Unserved)).await?;
                            self.pause(UNSERVED_WAIT).await?;
                        }
                        Cause::Ungranted if is_done_without => {
                            self.send(Message::Event(self.kind, Event::Unserved)).await?;
                            self.wait(trouble).await?;
                        }
                        _ => self.wait(trouble).await?,
                    }
                    if begun && !listed {
                        self.after_broken_list();
                    }
                    // A watch goes on from where it was. In all other cases kube's watcher would
                    // begin anew without a pause, or for ever ask for what is gone (HTTP 410).
                    if cause != Cause::Passing || !listed {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Whether the server says that it has no such kind, where it says nothing of its objects: what
    /// kinds there are, everybody may know.
    async fn is_undefined(&self, client: &Client) -> bool {
        let (group, version) = self.kind.group_version();
        match client.list_api_group_resources(&format!("{group}/{version}")).await {
            Ok(list) => !list.resources.iter().any(|known| known.name == self.kind.plural()),
            Err(kube::Error::Api(status)) => status.code == 404,
            Err(_) => false,
        }
    }

    fn config(&self) -> Config {
        let page = if self.kind == Kind::EndpointSlice { SLICE_PAGE_SIZE } else { PAGE_SIZE };
        let mut config = Config::default().timeout(self.limits.watch_secs).page_size(page);
        if self.kind == Kind::Secret {
            config = config.fields(&format!("type={TLS_SECRET}"));
        }
        if self.lists == Lists::Streamed { config.streaming_lists() } else { config }
    }

    /// The next event; `None` when a list was silent for too long. A watch that has had no trouble
    /// for a while is said to have recovered: it may be silent for as long as nothing changes.
    async fn next<S: Stream + Unpin>(
        &mut self,
        events: &mut S,
        listed: bool,
    ) -> Result<Option<S::Item>, Gone> {
        let never = "kube's watcher never ends";
        if !listed {
            let found = timeout(self.limits.list_silence, events.next()).await;
            return Ok(found.ok().map(|next| next.expect(never)));
        }
        if self.troubled {
            match timeout(HEALTHY_AFTER, events.next()).await {
                Ok(next) => return Ok(Some(next.expect(never))),
                Err(_elapsed) => {
                    self.troubled = false;
                    self.send(Message::Recovered(self.kind)).await?;
                }
            }
        }
        Ok(Some(events.next().await.expect(never)))
    }

    /// Counts an answer that the API does not have the kind; whether to believe it. Where it was
    /// there before, one answer may be that of something between us and the server.
    fn is_absent(&mut self) -> bool {
        match &mut self.absences {
            None => true,
            Some(count) => {
                *count += 1;
                *count >= BELIEVED_ABSENCES
            }
        }
    }

    fn after_broken_list(&mut self) {
        if self.lists == Lists::Streamed {
            self.lists = Lists::PagedOnce;
        }
    }

    async fn send(&self, message: Message) -> Result<(), Gone> {
        self.messages.send(message).await.map_err(|_| Gone)
    }

    /// Tells of trouble and waits, longer each time until there has been none for a while. (An
    /// event is no sign of health: one may come between any two failures.)
    async fn wait(&mut self, trouble: Trouble) -> Result<(), Gone> {
        let now = Instant::now();
        if self.last_trouble.replace(now).is_none_or(|last| now - last > HEALTHY_AFTER) {
            self.backoff = MIN_BACKOFF;
        }
        self.troubled = true;
        let asked = trouble.retry_after.unwrap_or_default().min(MAX_BACKOFF);
        let wait = jittered(self.backoff).max(asked);
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        self.send(Message::Trouble(self.kind, trouble)).await?;
        self.pause(wait).await
    }

    async fn pause(&self, wait: Duration) -> Result<(), Gone> {
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.messages.closed() => Err(Gone),
        }
    }
}

fn converted<K: Watched>(event: watcher::Event<Item<K>>) -> Event {
    match event {
        Raw::Init => Event::ListBegins,
        Raw::InitApply(item) => Event::Listed(Box::new(item.into_read())),
        Raw::InitDone => Event::ListEnds,
        Raw::Apply(item) => Event::Applied(Box::new(item.into_read())),
        Raw::Delete(item) => Event::Deleted(item.into_read().id),
    }
}
