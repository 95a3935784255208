//! What the directory knows and answers: pure, no I/O and no clock. Changes of objects in, answers out.

mod model;
mod resolve;
mod review;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    model::{Claim, Key, Pod, PodPorts, Protocol, ServedBy, Service, Slice, SliceEndpoint, Stage},
    resolve::{Endpoint, Says},
    review::Review,
    store::{Change, Store, Touched},
};
