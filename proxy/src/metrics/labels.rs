//! Label values and sets of labels.

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

use super::vocabulary::{CodeClass, Word};

/// A label value that is shared rather than copied.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Text(Arc<str>);

/// An HTTP status, or its class where there were too many of them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Code {
    Status(u16),
    Class(CodeClass),
}

/// The peers that have a label of their own.
#[derive(Debug)]
pub(super) struct PeerLabels {
    known: Mutex<HashSet<Text>>,
    most: usize,
}

/// One value of a label.
pub(super) trait Value {
    fn write(&self, to: &mut dyn fmt::Write) -> fmt::Result;

    /// What stands for it in a family that is full.
    fn overflow(&self) -> Self;
}

/// A set of labels; its fields are their names.
pub(super) trait Labels: EncodeLabelSet + Send + Sync + fmt::Debug + 'static {
    const NAMES: &'static [&'static str];
}

/// A set of labels whose combinations are known beforehand: each has a number.
pub(super) trait ClosedLabels: Labels + Copy {
    const COUNT: usize;

    fn number(self) -> usize;

    fn at(number: usize) -> Option<Self>;
}

/// A set of labels whose combinations appear as they come.
pub(super) trait OpenLabels: Labels + Clone + Eq + std::hash::Hash {
    /// The set that counts for this one in a family that is full.
    fn overflow(&self) -> Self;
}

/// Declares sets of labels with their names, and how to write them.
macro_rules! label_set {
    ($name:ident { $($field:ident: $type:ty),+ $(,)? }) => {
        #[derive(Clone, Debug, Eq, Hash, PartialEq)]
        pub(super) struct $name { $(pub(super) $field: $type,)+ }

        impl EncodeLabelSet for $name {
            fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
                $($crate::metrics::labels::write(encoder, stringify!($field), &self.$field)?;)+
                Ok(())
            }
        }

        impl Labels for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),+];
        }
    };
}

macro_rules! open_labels {
    ($name:ident { $($field:ident: $type:ty),+ $(,)? }) => {
        label_set!($name { $($field: $type),+ });

        impl OpenLabels for $name {
            fn overflow(&self) -> Self {
                Self { $($field: Value::overflow(&self.$field),)+ }
            }
        }
    };
}

macro_rules! closed_labels {
    ($name:ident { $($field:ident: $type:ty),+ $(,)? }) => {
        label_set!($name { $($field: $type),+ });

        impl Copy for $name {}

        impl ClosedLabels for $name {
            const COUNT: usize = 1 $(* <$type as Word>::ALL.len())+;

            fn number(self) -> usize {
                let mut number = 0;
                $(number = number * <$type as Word>::ALL.len() + Word::number(self.$field);)+
                number
            }

            fn at(number: usize) -> Option<Self> {
                let mut rest = Self::COUNT;
                $(
                    let all = <$type as Word>::ALL;
                    rest /= all.len();
                    let $field = *all.get(number / rest % all.len())?;
                )+
                Some(Self { $($field,)+ })
            }
        }
    };
}

pub(super) use {closed_labels, label_set, open_labels};

pub(super) fn write(encoder: &mut LabelSetEncoder<'_>, name: &str, value: &impl Value) -> fmt::Result {
    let mut label = encoder.encode_label();
    let mut key = label.encode_label_key()?;
    fmt::Write::write_str(&mut key, name)?;
    let mut to = key.encode_label_value()?;
    value.write(&mut to)?;
    to.finish()
}

// === impl Text ===

impl Text {
    /// Stands for "there is none".
    #[must_use]
    pub fn none() -> Self {
        Self::from("-")
    }

    /// Stands for everything past a limit.
    #[must_use]
    pub fn other() -> Self {
        Self::from("_other")
    }

    /// The value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<Arc<str>> for Text {
    fn from(text: Arc<str>) -> Self {
        Self(text)
    }
}

impl std::borrow::Borrow<str> for Text {
    fn borrow(&self) -> &str {
        &self.0
    }
}

// === impl Value ===

impl Value for Text {
    fn write(&self, to: &mut dyn fmt::Write) -> fmt::Result {
        to.write_str(&self.0)
    }

    fn overflow(&self) -> Self {
        Self::other()
    }
}

impl Value for &'static str {
    fn write(&self, to: &mut dyn fmt::Write) -> fmt::Result {
        to.write_str(self)
    }

    fn overflow(&self) -> Self {
        self
    }
}

impl Value for Code {
    fn write(&self, to: &mut dyn fmt::Write) -> fmt::Result {
        match self {
            Self::Status(status) => write!(to, "{status}"),
            Self::Class(class) => to.write_str(class.word()),
        }
    }

    /// `5xx`: a query for `5..` finds it too.
    fn overflow(&self) -> Self {
        Self::Class(self.class())
    }
}

/// Words are few: a family that is full still tells them apart.
macro_rules! words {
    ($($name:ty),+ $(,)?) => {$(
        impl Value for $name {
            fn write(&self, to: &mut dyn fmt::Write) -> fmt::Result {
                to.write_str(self.word())
            }

            fn overflow(&self) -> Self {
                *self
            }
        }
    )+};
}

words!(
    super::CloseReason,
    super::ConnectResult,
    super::Direction,
    super::DirectoryAnswer,
    super::DirectoryEnd,
    super::DirectoryState,
    super::DirectoryWait,
    super::EndpointState,
    super::Limit,
    super::LookupResult,
    super::Transport,
    super::vocabulary::CodeClass,
    super::vocabulary::Full,
    super::vocabulary::GrpcStatus,
    super::vocabulary::Io,
    super::vocabulary::Layer,
    super::vocabulary::LogStream,
    super::vocabulary::PoolState,
    super::vocabulary::RefreshResult,
    super::vocabulary::ReloadResult,
    super::vocabulary::TlsCipher,
    super::vocabulary::TlsGroup,
    super::vocabulary::TlsVersion,
    mantlet_identity::IdentityErrorKind,
    mantlet_policy::Reason,
    mantlet_policy::Verdict,
);

impl Value for super::vocabulary::MethodLabel {
    fn write(&self, to: &mut dyn fmt::Write) -> fmt::Result {
        to.write_str(self.word())
    }

    fn overflow(&self) -> Self {
        Self::Other
    }
}

// === impl Code ===

impl Code {
    pub(super) fn class(self) -> CodeClass {
        match self {
            Self::Class(class) => class,
            Self::Status(status) => match status / 100 {
                1 => CodeClass::Informational,
                2 => CodeClass::Success,
                3 => CodeClass::Redirection,
                4 => CodeClass::ClientError,
                5 => CodeClass::ServerError,
                _ => CodeClass::None,
            },
        }
    }
}

// === impl PeerLabels ===

impl PeerLabels {
    pub(super) fn new(most: usize) -> Self {
        Self { known: Mutex::default(), most }
    }

    /// The label of an authenticated peer. `None` once the limit is reached.
    pub(super) fn get(&self, peer: &str) -> Option<Text> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(label) = known.get(peer) {
            return Some(label.clone());
        }
        if known.len() >= self.most {
            return None;
        }
        let label = Text::from(peer);
        known.insert(label.clone());
        Some(label)
    }
}
