//! What a server says of itself (`grpc.reflection.v1`), gathered over one stream, so that one
//! endpoint answers every question. The server is not trusted: numbers and sizes are bounded.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorPool, ServiceDescriptor};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest as Question;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse as Answer;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::{CallError, MAX_MESSAGE_BYTES, Session};

/// Most services a server may list.
const MAX_SERVICES: usize = 1000;
/// Most files that its descriptors may come in.
const MAX_FILES: usize = 2000;
/// Most bytes of them.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// One stream of questions and answers.
pub(super) struct Reflection {
    questions: mpsc::Sender<ServerReflectionRequest>,
    answers: Streaming<ServerReflectionResponse>,
    files: BTreeMap<String, FileDescriptorProto>,
    bytes: usize,
}

impl Reflection {
    /// Opens the stream and asks for the names of the services, sorted.
    pub(super) async fn open(session: &Session) -> Result<(Self, Vec<String>), CallError> {
        let (questions, asked) = mpsc::channel(1);
        // Asked before the stream is open: a server may send no headers before its first answer.
        questions.try_send(question(Question::ListServices(String::new()))).map_err(closed)?;
        let answers = ServerReflectionClient::new(session.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .server_reflection_info(session.request(ReceiverStream::new(asked)))
            .await
            .map_err(refused)?
            .into_inner();
        let mut reflection = Self { questions, answers, files: BTreeMap::new(), bytes: 0 };
        let Answer::ListServicesResponse(list) = reflection.answer().await? else {
            return Err(unexpected("the list of services"));
        };
        CallError::bound("services of the server", list.service.len(), MAX_SERVICES)?;
        let mut services: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
        services.sort();
        services.dedup();
        Ok((reflection, services))
    }

    /// The descriptor of a service, with everything that its file imports.
    pub(super) async fn service(&mut self, name: &str) -> Result<ServiceDescriptor, CallError> {
        let pending = self.ask_files(Question::FileContainingSymbol(name.to_owned())).await?;
        self.fetch(pending).await?;
        let mut pool = DescriptorPool::new();
        pool.add_file_descriptor_protos(self.files.values().cloned())?;
        pool.get_service_by_name(name).ok_or_else(|| unexpected(&format!("service {name}")))
    }

    /// Keeps these files and fetches what they import, and so on.
    async fn fetch(&mut self, mut pending: Vec<FileDescriptorProto>) -> Result<(), CallError> {
        while let Some(file) = pending.pop() {
            if self.files.contains_key(file.name()) {
                continue;
            }
            CallError::bound("files of the server", self.files.len() + 1, MAX_FILES)?;
            let imports = file.dependency.clone();
            self.files.insert(file.name().to_owned(), file);
            for import in imports {
                if self.files.contains_key(&import) || pending.iter().any(|f| f.name() == import) {
                    continue;
                }
                match well_known(&import) {
                    Some(known) => pending.push(known),
                    None => pending.extend(self.ask_files(Question::FileByFilename(import)).await?),
                }
            }
        }
        Ok(())
    }

    async fn ask_files(&mut self, asked: Question) -> Result<Vec<FileDescriptorProto>, CallError> {
        // A stream that has ended says why when it is read.
        let _ended = self.questions.send(question(asked)).await;
        let Answer::FileDescriptorResponse(answer) = self.answer().await? else {
            return Err(unexpected("a file descriptor"));
        };
        self.bytes += answer.file_descriptor_proto.iter().map(Vec::len).sum::<usize>();
        CallError::bound("bytes of the server's descriptors", self.bytes, MAX_BYTES)?;
        answer
            .file_descriptor_proto
            .iter()
            .map(|bytes| FileDescriptorProto::decode(&**bytes))
            .collect::<Result<_, _>>()
            .map_err(|error| CallError::Reflection { reason: error.to_string() })
    }

    async fn answer(&mut self) -> Result<Answer, CallError> {
        let response = self.answers.message().await.map_err(refused)?;
        match response.and_then(|response| response.message_response) {
            Some(Answer::ErrorResponse(error)) => {
                let status = Status::new(Code::from_i32(error.error_code), error.error_message);
                Err(refused(status))
            }
            Some(answer) => Ok(answer),
            None => Err(unexpected("an answer")),
        }
    }
}

/// The types of `google/protobuf/` are the same everywhere, and some servers do not serve them.
fn well_known(file: &str) -> Option<FileDescriptorProto> {
    if !file.starts_with("google/protobuf/") {
        return None;
    }
    let known = DescriptorPool::global().get_file_by_name(file)?;
    Some(known.file_descriptor_proto().clone())
}

fn question(question: Question) -> ServerReflectionRequest {
    ServerReflectionRequest { host: String::new(), message_request: Some(question) }
}

fn refused(status: Status) -> CallError {
    match status.code() {
        Code::Unimplemented => CallError::NoReflection,
        _ => status.into(),
    }
}

fn unexpected(wanted: &str) -> CallError {
    CallError::Reflection { reason: format!("asked for {wanted}, the server sent something else") }
}

fn closed<T>(_unsent: mpsc::error::TrySendError<T>) -> CallError {
    unexpected("a first question")
}
