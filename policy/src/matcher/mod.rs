//! The compiled form: what is asked per connection and per request.

pub(crate) mod condition;
pub(crate) mod peers;
pub(crate) mod segment;
pub(crate) mod set;
pub(crate) mod table;
pub(crate) mod trie;
