//! Who speaks first, with real sockets: the client, the endpoint, both, or nobody.

use std::cell::Cell;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::{Carries, Detected, Patience, Undetected, detect};
use crate::stream::Stream;
use crate::tcp::classify::Verdict;

const LONG: Duration = Duration::from_secs(20);
const AT_ONCE: Duration = Duration::ZERO;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let to = listener.local_addr().expect("bound");
    let (client, accepted) = tokio::join!(TcpStream::connect(to), listener.accept());
    (client.expect("connected"), accepted.expect("accepted").0)
}

struct Case {
    client: &'static [u8],
    server: &'static [u8],
    grace: Duration,
    carries: Carries,
    /// Whether the endpoint is there at the end.
    dialled: bool,
}

#[tokio::test]
async fn whoever_speaks_first_decides_and_nothing_read_is_lost() {
    let (greeting, http) = (&b"220 mail.example ESMTP\r\n"[..], &b"GET / HTTP/1.1\r\n\r\n"[..]);
    for case in [
        // Client first: no endpoint is dialled for HTTP, however it will be picked.
        Case {
            client: http,
            server: b"",
            grace: LONG,
            carries: Carries::Client(Verdict::Http1),
            dialled: false,
        },
        Case {
            client: b"\x01\x02\x03",
            server: b"",
            grace: LONG,
            carries: Carries::Client(Verdict::Other),
            dialled: false,
        },
        Case {
            client: b"",
            server: greeting,
            grace: AT_ONCE,
            carries: Carries::Server,
            dialled: true,
        },
        // The client has begun with what may become HTTP: the endpoint's word counts.
        Case {
            client: b"GET",
            server: greeting,
            grace: AT_ONCE,
            carries: Carries::Server,
            dialled: true,
        },
    ] {
        let (mut client, accepted) = pair().await;
        let (endpoint, mut server) = pair().await;
        client.write_all(case.client).await.expect("written");
        server.write_all(case.server).await.expect("written");
        let patience = Patience { grace: case.grace, deadline: LONG };
        let dial = async { Ok::<_, ()>((Stream::Plain(endpoint), ())) };
        let found = detect(&accepted, patience, Vec::new(), dial).await.expect("detected");
        assert_eq!(found.carries, case.carries);
        assert_eq!(found.upstream.is_some(), case.dialled, "{:?}", case.carries);
        let mut first = found.first;
        while first.len() < case.client.len() {
            accepted.readable().await.expect("readable");
            let _nothing_yet = crate::splice::read_some(&accepted, &mut first, 64);
        }
        assert_eq!(first, case.client);
    }
}

#[tokio::test]
async fn a_client_that_speaks_while_the_endpoint_is_dialled_decides() {
    for (bytes, verdict, waits) in
        [(&b"GET / HTTP/1.1\r\n"[..], Verdict::Http1, false), (b"\x01", Verdict::Other, true)]
    {
        let (mut client, accepted) = pair().await;
        let (endpoint, _server) = pair().await;
        let begun = Cell::new(false);
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let dial = async {
            begun.set(true);
            client.write_all(bytes).await.expect("written");
            if waits {
                let _sender_lives = tokio::join!(tokio::task::yield_now(), async { drop(go) });
            }
            gone.await.expect_err("nothing is sent");
            Ok::<_, ()>((Stream::Plain(endpoint), ()))
        };
        let patience = Patience { grace: AT_ONCE, deadline: LONG };
        let Detected { carries, first, upstream } =
            detect(&accepted, patience, Vec::new(), dial).await.expect("detected");
        assert!(begun.get());
        assert_eq!((carries, &first[..]), (Carries::Client(verdict), bytes));
        assert_eq!(upstream.is_some(), waits, "only what is no HTTP waits for its endpoint");
    }
}

#[tokio::test]
async fn nobody_is_waited_for_beyond_the_deadline() {
    let patience = Patience { grace: AT_ONCE, deadline: Duration::from_millis(20) };
    for (bytes, expected) in [
        (&b""[..], Carries::Silence),
        (b"GET /a", Carries::Client(Verdict::Http1)),
        (b"PRI", Carries::Client(Verdict::Other)),
    ] {
        let (mut client, accepted) = pair().await;
        let (endpoint, _server) = pair().await;
        client.write_all(bytes).await.expect("written");
        let dial = async { Ok::<_, ()>((Stream::Plain(endpoint), ())) };
        let found = detect(&accepted, patience, Vec::new(), dial).await.expect("detected");
        assert_eq!((found.carries, &found.first[..]), (expected, bytes));
        assert!(found.upstream.is_some());
    }
}

#[tokio::test]
async fn what_ends_before_a_word_is_not_served() {
    let patience = Patience { grace: AT_ONCE, deadline: LONG };
    let (client, accepted) = pair().await;
    drop(client);
    let dial = std::future::pending::<Result<(Stream, ()), ()>>();
    let ended = detect(&accepted, patience, Vec::new(), dial).await;
    assert!(matches!(ended, Err(Undetected::Client(None))), "{ended:?}");
    let (_client, accepted) = pair().await;
    let failed = detect(&accepted, patience, Vec::new(), async { Err::<(Stream, ()), _>(7) }).await;
    assert!(matches!(failed, Err(Undetected::Dial(7))), "{failed:?}");
}

#[tokio::test]
async fn an_endpoint_that_closes_at_once_is_passed_on() {
    let (_client, accepted) = pair().await;
    let (endpoint, server) = pair().await;
    drop(server);
    let patience = Patience { grace: AT_ONCE, deadline: LONG };
    let dial = async { Ok::<_, ()>((Stream::Plain(endpoint), ())) };
    let found = detect(&accepted, patience, Vec::new(), dial).await.expect("detected");
    assert_eq!(found.carries, Carries::Server);
}
