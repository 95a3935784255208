//! The serving certificate of the webhook: made here, shared by all replicas, trusted by the API server.
//!
//! One Secret holds it with its authority. Whoever comes first makes it; whoever loses the race reads. Only the bundle
//! in our webhook configurations is ever written, nothing else in them: selectors belong to who installed them, and
//! platforms that change those would otherwise fight with us for ever.

mod authority;
mod keeper;
mod serving;
mod state;

pub(crate) use self::{
    keeper::{Keeper, Place},
    serving::{Shown, server_config},
    state::Terms,
};
