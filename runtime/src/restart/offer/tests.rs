//! Both sides in one process, over a real socket file.

use std::net::TcpStream;
use std::os::fd::AsFd;

use tokio::task::JoinSet;

use super::super::{Predecessor, RestartError};
use super::*;

/// Longest wait for what is to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process in office with one listener of its own and an admin port.
struct World {
    folder: PathBuf,
    lifecycle: Lifecycle,
    listener: TcpListener,
    admin: TcpListener,
    admin_left: CancellationToken,
    requests: mpsc::Receiver<Request>,
    tasks: JoinSet<Result<(), RestartError>>,
}

impl World {
    fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("restart-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let free = || TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (listener, admin) = (free(), free());
        let (lifecycle, admin_left) = (Lifecycle::new(), CancellationToken::new());
        let at = admin.local_addr().expect("an address");
        let fixed = Fixed::copy(&admin, Purpose::Admin, at, admin_left.clone()).expect("a copy");
        let (sender, requests) = mpsc::channel(1);
        let path = folder.join("restart");
        let (fixed, succeeded) = (vec![fixed], CancellationToken::new());
        let life = lifecycle.clone();
        let offered = CancellationToken::new();
        let offer = Offer { path, fixed, requests: sender, lifecycle: life, succeeded, offered };
        let in_office = CancellationToken::new();
        in_office.cancel();
        let mut tasks = JoinSet::new();
        tasks.spawn(offer.run(in_office));
        Self { folder, lifecycle, listener, admin, admin_left, requests, tasks }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("restart")
    }

    /// Waits for the socket file.
    async fn bound(&self) {
        let bound = async {
            while !self.path().exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, bound).await.expect("the file is there");
    }

    /// What the role answers to the next request: two workers' sockets of one listener.
    async fn answer(&mut self) -> Option<BTreeSet<u64>> {
        match self.requests.recv().await.expect("a request") {
            Request::Offer(answer) => {
                let asked = self.listener.local_addr().expect("an address");
                let label = |worker| Label {
                    purpose: Purpose::Listener,
                    group: 4,
                    name: "web".into(),
                    asked,
                    worker,
                };
                let copy = || self.listener.as_fd().try_clone_to_owned().expect("a copy");
                answer.send(Ok(vec![(label(0), copy()), (label(1), copy())])).expect("wanted");
                None
            }
            Request::Leave(kept, done) => {
                done.send(()).expect("wanted");
                Some(kept)
            }
        }
    }

    /// A successor that has all sockets.
    async fn successor(&mut self) -> Predecessor {
        let path = self.path();
        let (found, _) = tokio::join!(Predecessor::connect(&path), self.answer());
        found.expect("handed over").expect("there is a process")
    }

    /// The same, as soon as it is not refused.
    async fn successor_at_last(&mut self) -> Predecessor {
        let path = self.path();
        let mut requests = std::mem::replace(&mut self.requests, mpsc::channel(1).1);
        let asked = async {
            loop {
                match Predecessor::connect(&path).await {
                    Ok(found) => return found.expect("there is a process"),
                    Err(RestartError::Refused { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        let answers = async {
            while let Some(Request::Offer(answer)) = requests.recv().await {
                answer.send(Ok(Vec::new())).expect("wanted");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            found = tokio::time::timeout(PATIENCE, asked) => found.expect("in time"),
            () = answers => unreachable!("it is pending for ever"),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn a_successor_gets_the_very_sockets_and_the_old_one_drains_when_told() {
    let mut world = World::start("succeed");
    world.bound().await;
    let mode = std::fs::metadata(world.path()).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut predecessor = world.successor().await;
    let admin = world.admin.local_addr().expect("an address");
    assert!(predecessor.take(Purpose::Xds, admin).is_none());
    let taken = predecessor.take(Purpose::Admin, admin).expect("handed over");
    assert_eq!(taken.local_addr().expect("an address"), admin);
    let listeners = predecessor.take_listeners();
    let labels: Vec<_> = listeners.iter().map(|s| (s.label.group, s.label.worker)).collect();
    assert_eq!(labels, [(4, 0), (4, 1)]);

    // What waits in the old one's backlog is accepted by the new one.
    let at = world.listener.local_addr().expect("an address");
    let client = TcpStream::connect(at).expect("connected");
    let (_, peer) = listeners[1].listener.accept().expect("it waits there");
    assert_eq!(peer, client.local_addr().expect("an address"));

    assert!(!world.lifecycle.is_draining() && !world.admin_left.is_cancelled());
    let (told, kept) = tokio::join!(predecessor.succeed([4, 99]), world.answer());
    told.expect("it goes");
    assert_eq!(kept, Some([4, u64::MAX].into()), "what was never handed out is not kept");
    world.lifecycle.draining().await;
    assert!(world.admin_left.is_cancelled());
    world.tasks.join_next().await.expect("the task").expect("no panic").expect("no error");
    assert!(!world.path().exists(), "its own file is removed");
}

#[tokio::test]
async fn one_restart_at_a_time_and_one_that_is_given_up_changes_nothing() {
    let mut world = World::start("refuse");
    world.bound().await;
    let first = world.successor().await;
    let second = Predecessor::connect(&world.path()).await.expect_err("refused");
    assert_eq!(
        second.to_string(),
        "the running process refuses a restart: another restart is under way"
    );
    drop(first);
    // The old one notices by and by; until then it refuses.
    world.successor_at_last().await;
    assert!(!world.lifecycle.is_draining() && !world.admin_left.is_cancelled());
}

#[tokio::test]
async fn a_socket_file_of_a_dead_process_is_nobody_and_another_file_is_left_alone() {
    let world = World::start("stale");
    world.bound().await;
    let stale = world.folder.join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("bound"));
    for path in [&stale, &world.folder.join("none")] {
        let found = Predecessor::connect(path).await.expect("no error");
        assert!(found.is_none(), "{}", path.display());
    }
    drop(Place::bind(&stale).expect("it takes the dead one's place"));
    assert!(!stale.exists());
    let other = world.folder.join("other");
    std::fs::write(&other, "precious").expect("written");
    let error = Place::bind(&other).expect_err("not a socket");
    assert!(matches!(error, RestartError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read(&other).expect("readable"), b"precious");
}

#[tokio::test]
async fn the_file_of_a_successor_outlives_the_one_before() {
    let world = World::start("place");
    let path = world.folder.join("other");
    let before = Place::bind(&path).expect("bound");
    let after = Place::bind(&path).expect("bound in its place");
    drop(before);
    assert!(path.exists());
    drop(after);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_process_of_another_version_is_told_and_nothing_else_happens() {
    let mut world = World::start("version");
    world.bound().await;
    let stream = UnixStream::connect(world.path()).await.expect("connected");
    let mut hello = Message::Hello(1).encode();
    hello[4] = 200;
    let mut sent = 0;
    while sent < hello.len() {
        stream.writable().await.expect("open");
        sent += stream.try_write(&hello[sent..]).expect("sent");
    }
    let channel = Channel::new(stream).expect("ours");
    let (answer, _) = channel.receive_soon().await.expect("an answer");
    let reason = "restart message: version 200, this process speaks 1";
    assert_eq!(answer, Message::Refused(reason.to_owned()));
    // The next one is served.
    world.successor_at_last().await;
}
