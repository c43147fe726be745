//! JSON of the messages: read against the descriptor of their type, written one per line
//! (the proto3 JSON mapping, as prost-reflect has it).

use std::io::Write;

use prost_reflect::{
    DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions,
};

use super::{CallError, MAX_MESSAGE_BYTES, MAX_MESSAGES};

pub(super) fn check_sizes(messages: &[String]) -> Result<(), CallError> {
    CallError::bound("messages", messages.len(), MAX_MESSAGES)?;
    let largest = messages.iter().map(String::len).max().unwrap_or(0);
    CallError::bound("bytes of a message", largest, MAX_MESSAGE_BYTES)
}

/// What the method is to be sent.
pub(super) fn messages(
    method: &MethodDescriptor,
    texts: &[String],
) -> Result<Vec<DynamicMessage>, CallError> {
    if !method.is_client_streaming() {
        if texts.is_empty() {
            return Ok(vec![DynamicMessage::new(method.input())]);
        }
        if texts.len() > 1 {
            let method = method.full_name().to_owned();
            return Err(CallError::MessageCount { method, found: texts.len() });
        }
    }
    texts.iter().enumerate().map(|(i, text)| parse(i + 1, &method.input(), text)).collect()
}

fn parse(
    number: usize,
    descriptor: &MessageDescriptor,
    text: &str,
) -> Result<DynamicMessage, CallError> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let mut json = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    DynamicMessage::deserialize_with_options(descriptor.clone(), tracked, &options)
        .and_then(|message| json.end().map(|()| message))
        .map_err(|error| {
            let path = track.path();
            let field = path.iter().next().is_some().then(|| path.to_string());
            let mut reason = error.to_string();
            if field.is_none() && reason.starts_with("unrecognized field name") {
                reason = format!("{reason}; {} has {}", descriptor.full_name(), names(descriptor));
            }
            CallError::Json { number, field, reason }
        })
}

fn names(descriptor: &MessageDescriptor) -> String {
    let names: Vec<String> = descriptor.fields().map(|f| f.json_name().to_owned()).collect();
    if names.is_empty() { "no fields".to_owned() } else { names.join(", ") }
}

/// Writes one line.
pub(super) fn write(message: &DynamicMessage, out: &mut impl Write) -> Result<(), CallError> {
    let mut line = Vec::new();
    message
        .serialize_with_options(
            &mut serde_json::Serializer::new(&mut line),
            &SerializeOptions::new(),
        )
        .map_err(|error| CallError::Reflection { reason: error.to_string() })?;
    line.push(b'\n');
    // One write per line, flushed: whoever reads a pipe sees each reply when it comes.
    out.write_all(&line).and_then(|()| out.flush()).map_err(CallError::Write)
}
