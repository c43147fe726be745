//! The feed behind `portolan get clients`.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::BoxStream;
use portolan_runtime::admin::{Admin, Question};
use portolan_xds::server::clients::{ClientStatus, Clients};

use super::interval::{Source, lines};

/// How often whoever watches is told.
const EVERY: Duration = Duration::from_secs(1);

/// Adds the feed.
pub(crate) fn add(admin: Admin, clients: Clients) -> Admin {
    admin.with_feed("clients", move |question| feed(clients.clone(), question))
}

/// The connected clients, those of one node if a name is asked for.
struct Connected {
    clients: Clients,
    node: Option<String>,
}

fn feed(clients: Clients, question: Question) -> BoxStream<'static, String> {
    let Question { watch, name, .. } = question;
    lines(Connected { clients, node: name }, EVERY, watch)
}

impl Source for Connected {
    type Key = u64;
    type Row = ClientStatus;

    fn look(&self) -> BTreeMap<u64, ClientStatus> {
        let fits = |status: &ClientStatus| self.node.as_ref().is_none_or(|n| *n == status.node);
        let status = self.clients.status().into_iter().filter(fits);
        status.map(|status| (status.stream, status)).collect()
    }

    fn is_same(before: &ClientStatus, after: &ClientStatus) -> bool {
        before == after
    }
}
