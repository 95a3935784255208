//! The directory of the built `mantlet-injector`: real processes, real mutual TLS, and an API server beside them that
//! lists and watches as the real one does. With the real one too, where it is there.
#![cfg(feature = "server")]

mod answers;
mod api;
mod callers;
mod client;
mod cluster;
mod injector;
mod load;
mod objects;
mod outage;
mod replicas;
mod streams;
