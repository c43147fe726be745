//! The TCP backend.

use portolan_backends::tcp::MAX_LINE_BYTES;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::support::Running;

#[tokio::test]
async fn each_line_comes_back_behind_the_name_of_the_endpoint_and_nothing_comes_unasked() {
    let backend = Running::tcp();
    let stream = TcpStream::connect(backend.address).await.expect("a listener");
    let mut stream = BufReader::new(stream);
    for word in ["hello", "", "again"] {
        stream.write_all(format!("{word}\n").as_bytes()).await.expect("sent");
        let mut line = String::new();
        stream.read_line(&mut line).await.expect("an answer");
        assert_eq!(line, format!("db-1: {word}\n"));
    }
}

#[tokio::test]
async fn a_client_that_stops_sending_still_gets_every_answer() {
    let backend = Running::tcp();
    let mut stream = TcpStream::connect(backend.address).await.expect("a listener");
    stream.write_all(b"one\ntwo\nthree without an end").await.expect("sent");
    stream.shutdown().await.expect("half closed");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answers, then the end");
    assert_eq!(answer, "db-1: one\ndb-1: two\ndb-1: three without an end\n");
}

#[tokio::test]
async fn the_longest_line_is_answered_and_a_longer_one_ends_the_connection() {
    let backend = Running::tcp();
    for (length, answered) in [(MAX_LINE_BYTES, true), (MAX_LINE_BYTES + 1, false)] {
        let mut stream = TcpStream::connect(backend.address).await.expect("a listener");
        let mut line = vec![b'x'; length - 1];
        line.push(b'\n');
        stream.write_all(&line).await.expect("sent");
        stream.shutdown().await.expect("half closed");
        let mut answer = Vec::new();
        // Cut off in the middle of a line, the connection may be reset.
        let _reset = stream.read_to_end(&mut answer).await;
        assert_eq!(answer.len(), if answered { "db-1: ".len() + length } else { 0 });
    }
}

#[tokio::test]
async fn draining_ends_a_connection_between_lines() {
    let backend = Running::tcp();
    let mut stream = TcpStream::connect(backend.address).await.expect("a listener");
    stream.write_all(b"one\n").await.expect("sent");
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"db-1: one\n");
    backend.lifecycle.drain();
    assert_eq!(stream.read(&mut answer).await.expect("the end"), 0);
    backend.ended().await;
}
