//! Our client against our server, in one task set, over a pipe in memory.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;

use bytes::Bytes;
use tokio::io::DuplexStream;
use tokio::task::{LocalSet, spawn_local};

use super::super::*;
use crate::message::{Fields, Known, RequestHead, ResponseHead};

pub(super) async fn local<F: Future>(test: F) -> F::Output {
    let bounded = tokio::time::timeout(std::time::Duration::from_secs(60), test);
    LocalSet::new().run_until(bounded).await.expect("in time")
}

pub(super) fn open<'a>(method: &'a [u8], path: &'a [u8], fields: &'a Fields) -> Open<'a> {
    Open {
        method,
        scheme: Some(b"http"),
        authority: Some(b"web.default"),
        path: Some(path),
        protocol: None,
        fields,
    }
}

/// Starts a server that hands each request to `handle`, in a task of its own.
pub(super) fn start<H, F>(settings: &Settings, handle: H) -> (Client, Rc<Cell<bool>>, DrainHandle)
where
    H: Fn(Request) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let (near, far) = tokio::io::duplex(64 << 10);
    let (drain, drained) = tokio::sync::oneshot::channel::<()>();
    let closing = async move {
        if drained.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    serve_on(far, settings.clone(), closing, handle);
    let ended = Rc::new(Cell::new(false));
    let (client, run) = client(near, settings);
    let flag = ended.clone();
    spawn_local(async move {
        run.await;
        flag.set(true);
    });
    (client, ended, DrainHandle(drain))
}

pub(super) struct DrainHandle(tokio::sync::oneshot::Sender<()>);

impl DrainHandle {
    fn drain(self) {
        self.0.send(()).expect("the server runs");
    }
}

pub(super) fn serve_on<H, F>(
    io: DuplexStream,
    settings: Settings,
    closing: impl Future<Output = ()> + 'static,
    handle: H,
) where
    H: Fn(Request) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    spawn_local(async move {
        let on_request = |request| {
            spawn_local(handle(request));
        };
        let _ = serve(io, Bytes::new(), &settings, closing, on_request).await;
    });
}

pub(super) async fn ready(client: &Client) {
    poll_fn(|cx| client.poll_ready(cx)).await.expect("room");
}

pub(super) async fn head(recv: &mut RecvHead) -> Result<(ResponseHead, RecvStream), StreamError> {
    match poll_fn(|cx| recv.poll_head(cx)).await? {
        Event::Final(head, body) => Ok((head, body)),
        Event::Informational(head) => panic!("{head:?}"),
    }
}

/// All data, released at once, and the trailers.
pub(super) async fn drink(body: &mut RecvStream) -> Result<(Vec<u8>, Option<Fields>), StreamError> {
    let mut all = Vec::new();
    while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
        let data = data?;
        body.release(data.len());
        all.extend_from_slice(&data);
    }
    let over = body.is_end();
    let trailers = body.trailers();
    assert_eq!(over, trailers.is_none(), "trailers are part of what is read");
    assert!(body.is_end());
    Ok((all, trailers))
}

/// Sends within the windows.
pub(super) async fn pour(send: &mut SendStream, mut data: Bytes) -> Result<(), StreamError> {
    while !data.is_empty() {
        let count = poll_fn(|cx| send.poll_capacity(cx, data.len())).await?;
        assert!(count > 0);
        send.send_data(data.split_to(count), false);
    }
    Ok(())
}

/// Sends back what comes, and how much it was as a trailer.
pub(super) async fn echo(request: Request) {
    let Request { head, mut body, mut respond } = request;
    assert_eq!(head.authority(), Some(&b"web.default"[..]));
    let mut response = ResponseHead::new(200);
    response.fields.push(b"X-Path", head.path());
    respond.send_head(&response, false);
    let mut total = 0;
    while let Some(Ok(data)) = poll_fn(|cx| body.poll_data(cx)).await {
        total += data.len();
        body.release(data.len());
        if pour(&mut respond, data).await.is_err() {
            return;
        }
    }
    let mut trailers = body.trailers().unwrap_or_default();
    trailers.push(b"x-total", total.to_string().as_bytes());
    respond.send_trailers(&trailers);
}

async fn exchange(client: &Client, data: Bytes, pieces: usize) -> (Vec<u8>, Fields) {
    ready(client).await;
    let fields = Fields::default();
    let (mut send, mut recv) = client.open(&open(b"POST", b"/echo", &fields), false).expect("room");
    let write = async {
        for piece in data.chunks(data.len().div_ceil(pieces).max(1)) {
            pour(&mut send, data.slice_ref(piece)).await.expect("sent");
        }
        let mut trailers = Fields::default();
        trailers.push(b"X-Last", b"yes");
        send.send_trailers(&trailers);
    };
    let read = async {
        let (head, mut body) = head(&mut recv).await.expect("a head");
        assert_eq!((head.status, head.fields.named(b"x-path")), (200, Some(&b"/echo"[..])));
        drink(&mut body).await.expect("a body")
    };
    let ((), (all, trailers)) = tokio::join!(write, read);
    (all, trailers.expect("trailers"))
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| u8::try_from(at * 31 % 251).expect("small")).collect()
}

#[tokio::test]
async fn bodies_and_trailers_come_back_whatever_the_windows() {
    let cases = [(1 << 20, 4 << 20, 10 << 20), (300, 65_535, 50_000), (65_535, 65_535, 1 << 20)];
    for (stream_window, connection_window, length) in cases {
        local(async {
            let settings = Settings { stream_window, connection_window, ..Settings::default() };
            let (client, ..) = start(&settings, echo);
            let data = pattern(length);
            let (all, trailers) = exchange(&client, data.clone(), 7).await;
            assert!(all == data, "{stream_window}");
            assert_eq!(trailers.named(b"x-total"), Some(length.to_string().as_bytes()));
            assert_eq!(trailers.named(b"x-last"), Some(&b"yes"[..]));
        })
        .await;
    }
}

#[tokio::test]
async fn a_hundred_thousand_tiny_messages_survive() {
    local(async {
        let (client, ..) = start(&Settings::default(), echo);
        let data = pattern(100_000);
        let (all, _) = exchange(&client, data.clone(), 100_000).await;
        assert!(all == data);
        assert!(client.is_usable());
    })
    .await;
}

#[tokio::test]
async fn many_streams_at_once_share_a_connection_and_leave_nothing() {
    local(async {
        let settings = Settings { max_concurrent_streams: 50, ..Settings::default() };
        let (client, ended, _drain) = start(&settings, echo);
        let done = Rc::new(Cell::new(0));
        let mut tasks = Vec::new();
        for at in 0..500_usize {
            let (client, done) = (client.clone(), done.clone());
            tasks.push(spawn_local(async move {
                let data = pattern(at * 97);
                let (all, _) = exchange(&client, data.clone(), 3).await;
                assert!(all == data && client.active() <= 50);
                done.set(done.get() + 1);
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!((done.get(), client.active()), (500, 0));
        drop(client);
        while !ended.get() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_reset_is_heard_on_both_sides() {
    local(async {
        let codes = Rc::new(RefCell::new(Vec::new()));
        let heard = codes.clone();
        let (client, ..) = start(&Settings::default(), move |request: Request| {
            let heard = heard.clone();
            async move {
                let Request { head, mut body, mut respond } = request;
                if head.path() == b"/reset" {
                    return respond.reset(Code(77));
                }
                let code = poll_fn(|cx| respond.poll_reset(cx)).await;
                let data = poll_fn(|cx| body.poll_data(cx)).await;
                assert_eq!(data, Some(Err(StreamError::Reset(code))));
                heard.borrow_mut().push(code);
            }
        });
        let fields = Fields::default();
        ready(&client).await;
        let (_send, mut recv) = client.open(&open(b"GET", b"/reset", &fields), true).expect("room");
        let error = head(&mut recv).await.expect_err("reset");
        assert_eq!(error, StreamError::Reset(Code(77)));

        let (send, recv) = client.open(&open(b"POST", b"/wait", &fields), false).expect("room");
        tokio::task::yield_now().await;
        drop(recv);
        drop(send);
        while codes.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(*codes.borrow(), [Code::CANCEL]);
        assert_eq!(client.active(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_answers_early_stops_the_body() {
    local(async {
        let (client, ..) = start(&Settings::default(), |request: Request| async move {
            let Request { body, mut respond, .. } = request;
            respond.send_informational(&ResponseHead::new(103));
            respond.send_head(&ResponseHead::new(413), true);
            drop(body);
        });
        let fields = Fields::default();
        ready(&client).await;
        let (mut send, mut recv) = client.open(&open(b"POST", b"/", &fields), false).expect("room");
        let first = poll_fn(|cx| recv.poll_head(cx)).await.expect("a head");
        assert!(matches!(first, Event::Informational(ResponseHead { status: 103, .. })));
        let (head, mut body) = head(&mut recv).await.expect("a head");
        assert_eq!(head.status, 413);
        assert_eq!(drink(&mut body).await, Ok((Vec::new(), None)));
        let error = pour(&mut send, pattern(8 << 20)).await.expect_err("stopped");
        assert_eq!(error, StreamError::Reset(Code::NO_ERROR));
    })
    .await;
}

#[tokio::test]
async fn a_drain_lets_the_open_streams_end() {
    local(async {
        let (client, ended, drain) = start(&Settings::default(), echo);
        ready(&client).await;
        let fields = Fields::default();
        let (mut send, mut recv) =
            client.open(&open(b"POST", b"/a", &fields), false).expect("room");
        let (_, mut body) = head(&mut recv).await.expect("a head");
        drain.drain();
        while client.is_usable() {
            tokio::task::yield_now().await;
        }
        assert!(client.open(&open(b"GET", b"/b", &fields), true).is_err());
        send.send_data(Bytes::from_static(b"late"), true);
        let (all, _) = drink(&mut body).await.expect("a body");
        assert_eq!(all, b"late");
        drop((send, body));
        while !ended.get() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_unread_body_holds_its_sender_back() {
    local(async {
        let kept = Rc::new(RefCell::new(Vec::new()));
        let keep = kept.clone();
        let settings = Settings { stream_window: 10_000, ..Settings::default() };
        let (client, ..) = start(&settings, move |request| {
            keep.borrow_mut().push(request);
            async {}
        });
        ready(&client).await;
        let fields = Fields::default();
        let (mut send, _recv) = client.open(&open(b"POST", b"/", &fields), false).expect("room");
        let sent = Cell::new(0);
        let fill = async {
            loop {
                let count = poll_fn(|cx| send.poll_capacity(cx, 4000)).await.expect("alive");
                send.send_data(pattern(count), false);
                sent.set(sent.get() + count);
            }
        };
        let settle = async {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { _ = fill => {}, () = settle => {} }
        // What was allowed before SETTINGS came, at most.
        assert!((10_000..=65_535).contains(&sent.get()), "{}", sent.get());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_pinged_and_given_up() {
    local(async {
        let (near, _far) = tokio::io::duplex(1 << 10);
        let second = std::time::Duration::from_secs(1);
        let settings =
            Settings { keepalive: Some((second * 10, second * 2)), ..Settings::default() };
        let (client, run) = client(near, &settings);
        let fields = Fields::default();
        let _stream = client.open(&open(b"GET", b"/", &fields), true).expect("room");
        let begin = tokio::time::Instant::now();
        run.await;
        assert_eq!(client.failure(), Some(Error::PingTimeout));
        assert_eq!(begin.elapsed().as_secs(), 12);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_finishes_its_greeting_is_given_up() {
    local(async {
        let (_near, far) = tokio::io::duplex(1 << 10);
        let prefix = Bytes::from_static(b"PRI * HTTP/2.0\r\n");
        let settings =
            Settings { write_timeout: std::time::Duration::from_secs(10), ..Settings::default() };
        let begin = tokio::time::Instant::now();
        let end = serve(far, prefix, &settings, std::future::pending(), |_| {}).await;
        assert_eq!(end, Err(Error::ReadTimeout));
        assert_eq!(begin.elapsed().as_secs(), 20);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_no_output_is_given_up() {
    local(async {
        let (near, _far) = tokio::io::duplex(16);
        let settings = Settings { output: 1000, ..Settings::default() };
        let (client, run) = client(near, &settings);
        let fields = Fields::default();
        let (_send, mut recv) = client.open(&open(b"GET", b"/", &fields), true).expect("room");
        let begin = tokio::time::Instant::now();
        run.await;
        assert_eq!(client.failure(), Some(Error::WriteTimeout));
        assert!((30..=60).contains(&begin.elapsed().as_secs()));
        let error = head(&mut recv).await.expect_err("failed");
        assert_eq!(error, StreamError::Connection(Error::WriteTimeout));
    })
    .await;
}

#[tokio::test]
async fn a_head_over_the_limit_is_answered_with_431() {
    local(async {
        let (client, ..) = start(&Settings::default(), echo);
        ready(&client).await;
        let mut fields = Fields::default();
        (0..30_u8).for_each(|at| fields.push(&[b'a', b'a' + at % 26], &[b'v'; 3000]));
        let (_send, mut recv) = client.open(&open(b"GET", b"/", &fields), true).expect("room");
        let (response, _) = head(&mut recv).await.expect("a head");
        assert_eq!(response.status, 431);
        let (all, _) = exchange(&client, pattern(10), 1).await;
        assert_eq!(all.len(), 10, "the connection goes on");
    })
    .await;
}

#[tokio::test]
async fn an_extended_connect_says_its_protocol() {
    local(async {
        let (client, ..) = start(&Settings::default(), |request: Request| async move {
            let RequestHead { fields, .. } = &request.head;
            assert_eq!(fields.get(Known::Host), None);
            assert_eq!(request.head.protocol(), Some(&b"websocket"[..]));
            let mut respond = request.respond;
            respond.send_head(&ResponseHead::new(200), true);
        });
        while !client.allows_connect_protocol() {
            tokio::task::yield_now().await;
        }
        let fields = Fields::default();
        let request = Open { protocol: Some(b"websocket"), ..open(b"CONNECT", b"/chat", &fields) };
        let (_send, mut recv) = client.open(&request, false).expect("room");
        assert_eq!(head(&mut recv).await.expect("a head").0.status, 200);
    })
    .await;
}
