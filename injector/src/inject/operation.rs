//! JSON Patch (RFC 6902) operations and JSON Pointers (RFC 6901).

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

/// One step of a patch. They are applied in order: a path is about what the steps before it have left.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// Sets a member, whether it is there or not, or puts an item in front of the one at its index.
    Add {
        /// Where.
        path: Pointer,
        /// What.
        value: Value,
    },
    /// Sets a member or item that is there.
    Replace {
        /// Where.
        path: Pointer,
        /// What.
        value: Value,
    },
    /// Takes a member or item away.
    Remove {
        /// Where.
        path: Pointer,
    },
    /// Takes one away and adds it somewhere else.
    Move {
        /// Where it is.
        from: Pointer,
        /// Where it is to be.
        path: Pointer,
    },
}

/// A place in a document, escaped as it is built: there is no other way to make one.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Pointer(String);

/// An operation that the document has no place for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Inapplicable(pub Pointer);

// === impl Pointer ===

impl Pointer {
    /// The whole document.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// The member or item that is found by these tokens one after the other.
    #[must_use]
    pub fn of(tokens: &[&str]) -> Self {
        tokens.iter().fold(Self::root(), |pointer, token| pointer.child(token))
    }

    /// The member `token` of what is here.
    #[must_use]
    pub fn child(&self, token: &str) -> Self {
        // RFC 6901 3: "~" first, or the "~" of an escaped "/" would be escaped again.
        Self(format!("{}/{}", self.0, token.replace('~', "~0").replace('/', "~1")))
    }

    /// The item at `index` of what is here.
    #[must_use]
    pub fn item(&self, index: usize) -> Self {
        Self(format!("{}/{index}", self.0))
    }

    /// The same place, when the whole document becomes a part of another one at `prefix`.
    #[must_use]
    pub fn below(&self, prefix: &Self) -> Self {
        Self(format!("{}{}", prefix.0, self.0))
    }

    /// As RFC 6901 writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The place of what this is a member or item of, and its unescaped token there.
    fn split(&self) -> Option<(&str, String)> {
        let (parent, token) = self.0.rsplit_once('/')?;
        Some((parent, token.replace("~1", "/").replace("~0", "~")))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Pointer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

// === impl Inapplicable ===

impl fmt::Display for Inapplicable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no place {} in the document", self.0)
    }
}

impl std::error::Error for Inapplicable {}

// === impl Operation ===

impl Operation {
    pub(super) fn add(path: Pointer, value: impl Into<Value>) -> Self {
        Self::Add { path, value: value.into() }
    }

    pub(super) fn remove(path: Pointer) -> Self {
        Self::Remove { path }
    }

    /// The same step, when the document becomes a part of another one at `prefix`.
    #[must_use]
    pub fn below(&self, prefix: &Pointer) -> Self {
        match self {
            Self::Add { path, value } => Self::Add { path: path.below(prefix), value: value.clone() },
            Self::Replace { path, value } => Self::Replace { path: path.below(prefix), value: value.clone() },
            Self::Remove { path } => Self::Remove { path: path.below(prefix) },
            Self::Move { from, path } => Self::Move { from: from.below(prefix), path: path.below(prefix) },
        }
    }

    fn apply(&self, document: &mut Value) -> Result<(), Inapplicable> {
        match self {
            Self::Add { path, value } => add(document, path, value.clone()),
            Self::Replace { path, value } => {
                let place = document.pointer_mut(path.as_str());
                *place.ok_or_else(|| Inapplicable(path.clone()))? = value.clone();
                Ok(())
            }
            Self::Remove { path } => remove(document, path).map(drop),
            Self::Move { from, path } => {
                let value = remove(document, from)?;
                add(document, path, value)
            }
        }
    }
}

/// Applies a patch, all of it or up to the first step that has no place.
///
/// # Errors
/// The step that has no place; `document` is then to be thrown away.
pub fn apply(document: &mut Value, operations: &[Operation]) -> Result<(), Inapplicable> {
    operations.iter().try_for_each(|operation| operation.apply(document))
}

fn add(document: &mut Value, path: &Pointer, value: Value) -> Result<(), Inapplicable> {
    let nowhere = || Inapplicable(path.clone());
    let Some((parent, token)) = path.split() else {
        *document = value;
        return Ok(());
    };
    match document.pointer_mut(parent).ok_or_else(nowhere)? {
        Value::Object(members) => {
            members.insert(token, value);
        }
        Value::Array(items) if token == "-" => items.push(value),
        Value::Array(items) => {
            let index = index(&token).filter(|index| *index <= items.len()).ok_or_else(nowhere)?;
            items.insert(index, value);
        }
        _ => return Err(nowhere()),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &Pointer) -> Result<Value, Inapplicable> {
    let nowhere = || Inapplicable(path.clone());
    let (parent, token) = path.split().ok_or_else(nowhere)?;
    match document.pointer_mut(parent).ok_or_else(nowhere)? {
        Value::Object(members) => members.remove(&token).ok_or_else(nowhere),
        Value::Array(items) => {
            let index = index(&token).filter(|index| *index < items.len()).ok_or_else(nowhere)?;
            Ok(items.remove(index))
        }
        _ => Err(nowhere()),
    }
}

/// RFC 6901 4: digits without leading zeros.
fn index(token: &str) -> Option<usize> {
    let plain = token.bytes().all(|b| b.is_ascii_digit()) && (token == "0" || !token.starts_with('0'));
    token.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_with_slashes_and_tildes_are_escaped() {
        let pointer = Pointer::of(&["metadata", "annotations", "mantlet.dev/injected-by"]);
        assert_eq!(pointer.as_str(), "/metadata/annotations/mantlet.dev~1injected-by");
        assert_eq!(Pointer::of(&["a~/b~1"]).as_str(), "/a~0~1b~01");
        assert_eq!(Pointer::of(&[""]).as_str(), "/");
        assert_eq!(Pointer::of(&["a"]).item(3).as_str(), "/a/3");
        assert_eq!(Pointer::of(&["b"]).below(&Pointer::of(&["a"])).as_str(), "/a/b");
        let key = "a~/b~1~0//";
        let mut document = json!({ key: 1 });
        apply(&mut document, &[Operation::remove(Pointer::of(&[key]))]).unwrap();
        assert_eq!(document, json!({}));
    }

    #[test]
    fn operations_are_written_as_the_rfc_has_them() {
        let path = Pointer::of(&["a"]);
        let all = [
            Operation::add(path.clone(), 1),
            Operation::Replace { path: path.clone(), value: json!([]) },
            Operation::Move { from: Pointer::of(&["b"]), path: path.clone() },
            Operation::remove(path),
        ];
        assert_eq!(
            serde_json::to_string(&all).unwrap(),
            r#"[{"op":"add","path":"/a","value":1},{"op":"replace","path":"/a","value":[]},{"op":"move","from":"/b","path":"/a"},{"op":"remove","path":"/a"}]"#
        );
    }

    #[test]
    fn a_step_without_a_place_is_an_error() {
        for operation in [
            Operation::add(Pointer::of(&["a", "b"]), 1),
            Operation::remove(Pointer::of(&["a"])),
            Operation::remove(Pointer::root()),
            Operation::add(Pointer::of(&["list", "2"]), 1),
            Operation::add(Pointer::of(&["list", "01"]), 1),
            Operation::remove(Pointer::of(&["list", "1"])),
            Operation::Replace { path: Pointer::of(&["a"]), value: json!(1) },
            Operation::Move { from: Pointer::of(&["a"]), path: Pointer::of(&["b"]) },
        ] {
            assert!(
                apply(&mut json!({"list": [1]}), std::slice::from_ref(&operation)).is_err(),
                "{operation:?}"
            );
        }
        let mut document = json!({"list": [1]});
        let steps =
            [Operation::add(Pointer::of(&["list", "0"]), 0), Operation::add(Pointer::of(&["list", "-"]), 2)];
        apply(&mut document, &steps).unwrap();
        assert_eq!(document, json!({"list": [0, 1, 2]}));
    }
}
