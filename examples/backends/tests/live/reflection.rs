//! The gRPC client against servers whose reflection is unusual, broken or hostile.

use std::net::SocketAddr;
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use portolan_backends::call::{CallError, CallRequest};
use prost::Message as _;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, MethodDescriptorProto,
    ServiceDescriptorProto,
};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest as Question;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse as Answer;
use tonic_reflection::pb::v1::server_reflection_server::{
    ServerReflection, ServerReflectionServer,
};
use tonic_reflection::pb::v1::{
    ErrorResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse,
};

use crate::support::{request, run};

type Answers = Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

/// Lists `t.Service` and answers questions for files with what the function says.
#[derive(Clone)]
struct Scripted(fn(&Question) -> Answer);

#[tonic::async_trait]
impl ServerReflection for Scripted {
    type ServerReflectionInfoStream = Answers;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let script = self.0;
        let answers = request.into_inner().map(move |request| {
            let question = request?.message_request.expect("a question");
            let answer = match question {
                Question::ListServices(_) => {
                    let service = vec![ServiceResponse { name: "t.Service".to_owned() }];
                    Answer::ListServicesResponse(ListServiceResponse { service })
                }
                other => script(&other),
            };
            Ok(ServerReflectionResponse { message_response: Some(answer), ..Default::default() })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

async fn start(script: fn(&Question) -> Answer) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let mut server = JoinSet::new();
    server.spawn(async move {
        let service = ServerReflectionServer::new(Scripted(script));
        let incoming = TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(service);
        server.serve_with_incoming(incoming).await.expect("it serves");
    });
    (address, server)
}

fn file(file: &FileDescriptorProto) -> Answer {
    let file_descriptor_proto = vec![file.encode_to_vec()];
    Answer::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto })
}

fn refusal(what: &Question) -> Answer {
    let error_message = format!("no {what:?}");
    Answer::ErrorResponse(ErrorResponse { error_code: 5, error_message })
}

/// `service.proto`, which takes and returns `t.Message` and imports this file.
fn service_file(import: &str) -> FileDescriptorProto {
    let method = MethodDescriptorProto {
        name: Some("Do".to_owned()),
        input_type: Some(".t.Message".to_owned()),
        output_type: Some(".t.Message".to_owned()),
        ..Default::default()
    };
    FileDescriptorProto {
        name: Some("service.proto".to_owned()),
        package: Some("t".to_owned()),
        syntax: Some("proto3".to_owned()),
        dependency: vec![import.to_owned()],
        service: vec![ServiceDescriptorProto {
            name: Some("Service".to_owned()),
            method: vec![method],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// `message.proto`: a message with a `google.protobuf.Timestamp`.
fn message_file() -> FileDescriptorProto {
    let field = FieldDescriptorProto {
        name: Some("seen_at".to_owned()),
        json_name: Some("seenAt".to_owned()),
        number: Some(1),
        label: Some(Label::Optional.into()),
        r#type: Some(Type::Message.into()),
        type_name: Some(".google.protobuf.Timestamp".to_owned()),
        ..Default::default()
    };
    FileDescriptorProto {
        name: Some("message.proto".to_owned()),
        package: Some("t".to_owned()),
        syntax: Some("proto3".to_owned()),
        dependency: vec!["google/protobuf/timestamp.proto".to_owned()],
        message_type: vec![DescriptorProto {
            name: Some("Message".to_owned()),
            field: vec![field],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Serves both files, but not those of protobuf itself.
fn imports(question: &Question) -> Answer {
    match question {
        Question::FileContainingSymbol(_) => file(&service_file("message.proto")),
        Question::FileByFilename(name) if name == "message.proto" => file(&message_file()),
        other => refusal(other),
    }
}

#[tokio::test]
async fn imported_files_are_fetched_and_the_well_known_ones_need_not_be_served() {
    let (address, _server) = start(imports).await;
    let list = CallRequest { method: None, ..request(address, "", &[]) };
    let (out, result) = run(list).await;
    result.expect("no error");
    assert_eq!(out, "t.Service/Do(t.Message) returns (t.Message)\n");

    // The message is understood; the server, which has no such method, is asked for it.
    let good = request(address, "t.Service/Do", &[r#"{"seenAt": "2026-03-02T09:14:07Z"}"#]);
    let error = run(good).await.1.expect_err("a status");
    assert_eq!(error.code_name(), Some("UNIMPLEMENTED"));
    let bad = request(address, "t.Service/Do", &[r#"{"seenAt": "yesterday"}"#]);
    let error = run(bad).await.1.expect_err("no time");
    assert!(error.to_string().starts_with("message 1, field seenAt: "), "{error}");
}

#[tokio::test]
async fn a_file_the_server_does_not_have_is_the_servers_status() {
    let (address, _server) = start(|question| match question {
        Question::FileContainingSymbol(_) => file(&service_file("gone.proto")),
        other => refusal(other),
    })
    .await;
    let error = run(request(address, "t.Service/Do", &[])).await.1.expect_err("a status");
    assert_eq!(error.status_message(), Some("no FileByFilename(\"gone.proto\")"));
    assert_eq!(error.code_name(), Some("NOT_FOUND"));
}

#[tokio::test]
async fn files_that_import_without_end_are_given_up_on() {
    let (address, _server) = start(|question| {
        let number = match question {
            Question::FileByFilename(name) => name.parse::<u32>().expect("a number"),
            _ => 0,
        };
        file(&FileDescriptorProto {
            name: Some(number.to_string()),
            dependency: vec![(number + 1).to_string()],
            ..Default::default()
        })
    })
    .await;
    let error = run(request(address, "t.Service/Do", &[])).await.1.expect_err("too many");
    assert_eq!(error.to_string(), "files of the server: 2001, at most 2000");
}

#[tokio::test]
async fn descriptors_that_do_not_hold_what_was_asked_for_are_refused() {
    for (script, expected) in [
        (
            (|_| file(&service_file("service.proto"))) as fn(&Question) -> Answer,
            "the server's descriptors do not fit together: ",
        ),
        (|_| file(&message_file()), "the server's reflection: asked for service t.Service, "),
        (
            |_| Answer::ListServicesResponse(ListServiceResponse::default()),
            "the server's reflection: asked for a file descriptor, ",
        ),
    ] {
        let (address, _server) = start(script).await;
        let error = run(request(address, "t.Service/Do", &[])).await.1.expect_err(expected);
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(!matches!(error, CallError::Status(_)), "{error:?}");
    }
}
