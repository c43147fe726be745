//! Why an object, or one setting of it, is not in force: where it stands, which field, what for.

use std::fmt;
use std::sync::Arc;

use crate::object::ObjectId;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// One thing that was refused. Its text form is one line for logs, `portolan check` and admin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejection {
    /// Where the object stands.
    pub origin: Origin,
    /// `Kind namespace/name`, when the document says so much.
    pub object: Option<String>,
    /// Path of the field, such as `spec.ports[0].port`.
    pub field: Option<String>,
    /// What is wrong with it.
    pub reason: String,
    /// What it costs.
    pub severity: Severity,
    /// The object in an API server, when that is where it comes from.
    pub subject: Option<Subject>,
}

/// An object in an API server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// Which object.
    pub id: ObjectId,
    /// What tells it from others of its name before and after it.
    pub uid: Option<String>,
}

/// Place of an object in the source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Origin {
    /// Path of the file, relative to the folder.
    pub file: Arc<str>,
    /// Number of the document within the file, from 1; `None` for the file as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<usize>,
    /// Number of the item within a `List`, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<usize>,
}

/// What a rejection costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// The object (or file) is refused; its last good version stays in force.
    Rejected,
    /// The object is in force; the field named is not, or has no effect yet.
    Warning,
    /// Too much is gone at once; what was in force stays (see [`crate::removal`]).
    Held,
    /// The object is in force; a client does not take what is made of it.
    Refused,
    /// The object is in force, but for a backend that fell behind its sibling.
    RolledBack,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Warning => "warning",
            Self::Held => "held",
            Self::Refused => "refused",
            Self::RolledBack => "rolledBack",
        }
    }
}

impl Origin {
    /// The file as a whole.
    #[must_use]
    pub fn file(file: &Arc<str>) -> Self {
        Self { file: file.clone(), document: None, item: None }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        if let Some(item) = self.item {
            write!(f, ", item {item}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.reason)
    }
}

/// All parts, and the line they make.
impl Serialize for Rejection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut s = serializer.serialize_struct("Rejection", 6)?;
        s.serialize_field("text", &self.to_string())?;
        s.serialize_field("severity", &self.severity)?;
        s.serialize_field("origin", &self.origin)?;
        s.serialize_field("object", &self.object)?;
        s.serialize_field("field", &self.field)?;
        s.serialize_field("reason", &self.reason)?;
        s.end()
    }
}
